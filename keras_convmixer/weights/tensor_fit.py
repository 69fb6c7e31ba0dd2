"""Check that the tensors of a file fit a model by name and shape; an error names every tensor that does not."""

from collections import Counter
from pathlib import Path

from ..files.printable import first_of
from .tensor_names import BLOCK, MEASURES, architecture_of

Shapes = dict[str, tuple[int, ...]]
_HEAD = ("head.weight", "head.bias")
_LISTED = 12
"""Most ignored names that a warning lists; further ones are counted."""
_FAULTS, _LENGTH = 100, 200
"""Most misfits of a kind that an error lists, and most characters of a name: a stranger's file may have any number."""


def head_without_place(shapes: Shapes, needed: Shapes) -> list[str]:
    """Return the names of the file's classifier if the model has none, or one for another number of classes.

    `shapes` are the file's, `needed` the model's. Empty if the classifier is to be loaded, or does not fit otherwise.
    """
    head = [name for name in _HEAD if name in shapes]
    if "head.weight" not in needed:
        return head
    # Only the number of classes may differ; another width is a misfit like any other.
    fits = [shapes[name][:1] == needed[name][:1] for name in head]
    same_width = shapes.get("head.weight", ())[1:] == needed["head.weight"][1:]
    return head if head == list(_HEAD) and same_width and not any(fits) else []


def require_fit(path: Path, shapes: Shapes, wanted: Shapes, extra: Shapes | None = None) -> None:
    """Check that a file has the wanted tensors, and no others.

    Args:
        path: the file, for the error.
        shapes: the file's tensors.
        wanted: the model's tensors.
        extra: further tensors of the file, which are not an error, but are listed in one.

    Raises:
        ValueError: a tensor is missing, extra or of another shape; the message names each.
    """
    groups = {
        "missing": {(name, f"{list(wanted[name])}") for name in wanted.keys() - shapes.keys()},
        "extra": {(name, f"{list(shapes[name])}") for name in shapes.keys() - wanted.keys()},
        "of another shape": {
            (name, f"{list(shapes[name])}, not {list(wanted[name])}")
            for name in shapes.keys() & wanted.keys()
            if shapes[name] != wanted[name]
        },
    }
    if not any(groups.values()):
        return
    groups["extra"] |= {(name, f"{list(shape)}") for name, shape in (extra or {}).items()}
    faults = "; ".join(f"{kind}: {_listed(tensors)}" for kind, tensors in groups.items() if tensors)
    architecture = architecture_of(shapes)
    if architecture and architecture == architecture_of(wanted):
        remedy = "The file is incomplete, or not of timm's or the reference's ConvMixer: save the whole state_dict()"
    elif architecture:
        holds = ", ".join(f"{name}={value}" for name, value in architecture.items())
        remedy = f"The file holds a ConvMixer with {holds}: build the model like that"
    else:
        remedy = "The file does not hold a whole ConvMixer: name a file of one, as timm's model.safetensors"
    raise ValueError(f"{path} does not fit the model. {remedy}. {faults}")


def described(tensors: Shapes, others: tuple[str, ...] = ()) -> str:
    """Return names with their shapes, and `others`, for a sentence; of very many, the first.

    Example:

        described({"criterion.weight": (10,)}, ("optimizer",))  # "criterion.weight [10], optimizer"
    """
    counted = Counter(part for name in tensors if (part := name.rsplit(".", 1)[-1]) in MEASURES)
    names = [f"{part} of {count} modules" for part, count in counted.items()]
    rest = ((name, shape) for name, shape in tensors.items() if name.rsplit(".", 1)[-1] not in MEASURES)
    names += [_listed({(name, f"{list(shape)}")}) for name, shape in rest]
    names += map(_shown, others)
    return first_of(names, _LISTED)


def _shown(name):
    """Return a name in a form that may be shown: short, and without control characters."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= _LENGTH else f"{name[:_LENGTH]}..."


def _listed(tensors):
    """Name tensors, given as (name, note), in one line.

    Those that differ in the block's number alone are joined: "blocks.{0-19}.1.bias [8]".
    """
    together = {}
    for name, note in tensors:
        name = _shown(name)
        block = BLOCK.match(name)
        place = ("blocks", name[block.end() :]) if block else (name, name)
        together.setdefault((*place, note), []).extend([int(block[1])] if block else [])
    described = [
        f"blocks.{_ranges(sorted(numbers))}.{name} {note}" if numbers else f"{name} {note}"
        for (_, name, note), numbers in sorted(together.items())
    ]
    return first_of(described, _FAULTS)


def _ranges(numbers):
    """Return sorted numbers as "{0-3,7}", or one number as it is."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) + "}"
