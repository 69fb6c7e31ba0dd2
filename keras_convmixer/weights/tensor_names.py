"""Find the tensors of a ConvMixer in a file by their names, and translate them to timm's.

The depthwise kernel of the first block has, in the same model saved by different code, the names

    blocks.0.0.fn.0.weight                  timm
    3.0.fn.0.weight                         the reference, whose nn.Sequential numbers its layers
    module.3.0.fn.0.weight                  the reference, trained under DataParallel
    model.backbone.blocks.0.0.fn.0.weight   timm's, wrapped by a training framework

and it may lie in a dictionary, such as "state_dict", beside an optimizer's state. Elsewhere in weights/, tensors go by
timm's names.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
TENSORS = {
    "Conv2D": (("weight", (3, 2, 0, 1)), ("bias", (0,))),  # [height, width, in, out] -> [out, in, height, width]
    "DepthwiseConv2D": (("weight", (2, 3, 0, 1)), ("bias", (0,))),  # [height, width, dim, 1] -> [dim, 1, height, width]
    "Dense": (("weight", (1, 0)), ("bias", (0,))),
    "BatchNormalization": (("weight", (0,)), ("bias", (0,)), ("running_mean", (0,)), ("running_var", (0,))),
}
"""Weights of each kind of layer in Keras's order: the name in PyTorch, and the axes with which `np.transpose` turns
Keras's array into PyTorch's."""
HEAD = "head"

_PARAMETER = r"(?:weight|bias|running_mean|running_var)"
# Both match the shortest prefix that leaves a name of a ConvMixer: "module.stem.0.weight" has the prefix "module.".
_TIMM = re.compile(
    rf"(?P<prefix>(?:.*?\.)??)(?:stem\.[02]|blocks\.\d{{1,4}}\.(?:0\.fn\.[02]|[13])|{HEAD})\.{_PARAMETER}", re.DOTALL
)
_NUMBERED = re.compile(rf"(?P<prefix>(?:.*?\.)??)\d{{1,4}}(?:\.0\.fn\.[02]|\.[13])?\.{_PARAMETER}", re.DOTALL)
_NUMBER = re.compile(r"\d{1,4}\.")
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""PyTorch's own counters, which nearly every file has. They are not weights, and are ignored without a warning."""
MEASURES = ("total_ops", "total_params")
"""Counters that the profiler thop leaves in every module of a model that it has measured."""
_WRAPPERS = {"module", "_orig_mod", "model", "backbone", "net", "encoder", "network"}
"""Prefixes of wrappers that hold the model itself, as DataParallel, torch.compile and training frameworks add them."""
_HEADS = {HEAD, "fc", "classifier", "linear"}
"""Usual names of a classifier that stands beside the body."""
# The dictionaries that are preferred if several hold a ConvMixer: in timm's order, then others that are common.
_GROUPS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "")
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|avg)(?:[._]|$)", re.IGNORECASE)
MOST_NAMES = 100_000
"""Most tensors of a file that is read. A ConvMixer of 1,000 layers has 14,000; more would only take time."""
_MOST_CANDIDATES = 6
"""How many prefixes are tried in each group, the most frequent first; a stranger's file may have any number."""


@dataclass(frozen=True)
class Names:
    """The place of a ConvMixer's tensors in a file."""

    group: str
    """The dictionary that holds them, such as "state_dict" or "checkpoint.model"; empty for the file itself."""
    tensors: dict[str, str]
    """timm's name -> the file's name."""
    ignored: tuple[str, ...] = ()
    """Names of tensors in the group that are not part of a ConvMixer, such as the weight of a loss."""
    average_instead_of: str | None = None
    """The place of the weights themselves, if the file has them too and these tensors are their moving average."""


@dataclass(frozen=True)
class _Candidate:
    """The tensors of one group whose names begin with one prefix."""

    group: str
    prefix: str
    tensors: dict[str, str]
    """timm's name -> the file's name."""
    twice: str | None
    """A name of timm's that two of the file's names translate to; None if there is none."""
    whole: bool
    """Whether they are all tensors of a ConvMixer."""
    average: bool
    """Whether group or prefix say that they are a moving average."""

    @property
    def place(self):
        """Group and prefix, for a sentence."""
        return ".".join(part for part in (self.group, self.prefix.rstrip(".")) if part) or "the file itself"

    @property
    def preference(self):
        """A sort key, the preferred candidate last: whole, a moving average, under known wrappers, in a known group."""
        words = set(self.prefix.split(".")) - {""}
        group = self.group.rsplit(".", 1)[-1]
        order = _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)
        return self.whole, self.average, words <= _WRAPPERS, -order


def layer_names(depth: int) -> list[tuple[str, str]]:
    """Return (name in timm, class in Keras) of each layer with weights, from the stem to the head.

    Example:

        layer_names(1)  # [("stem.0", "Conv2D"), ("stem.2", "BatchNormalization"), ("blocks.0.0.fn.0", ...), ...]
    """
    names = [("stem.0", "Conv2D"), ("stem.2", "BatchNormalization")]
    for block in range(depth):
        names += [(f"blocks.{block}.0.fn.0", "DepthwiseConv2D"), (f"blocks.{block}.0.fn.2", "BatchNormalization")]
        names += [(f"blocks.{block}.1", "Conv2D"), (f"blocks.{block}.3", "BatchNormalization")]
    return [*names, (HEAD, "Dense")]


def architecture_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int] | None:
    """Read a ConvMixer's architecture off the shapes of its tensors in PyTorch, by timm's names.

    Returns:
        Arguments of `ConvMixer`, and `channels`, the number of channels of its images. `classes` is missing if there
        is no classifier. None if stem or blocks are missing.
    """
    stem, depthwise = shapes.get("stem.0.weight", ()), shapes.get("blocks.0.0.fn.0.weight", ())
    blocks = {int(found[1]) for name in shapes if (found := BLOCK.match(name))}
    if len(stem) != 4 or len(depthwise) != 4 or blocks != set(range(len(blocks))):
        return None
    head = {"classes": shapes["head.weight"][0]} if len(shapes.get("head.weight", ())) == 2 else {}
    return {
        "dim": stem[0],
        "depth": len(blocks),
        "kernel_size": depthwise[2],
        "patch_size": stem[2],
        "channels": stem[1],
        **head,
    }


def tensor_shapes(
    dim: int, depth: int, kernel_size: int, patch_size: int, channels: int = 3, classes: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes in PyTorch of a ConvMixer's tensors, by timm's names; without a classifier for `classes=None`.

    The inverse of `architecture_of`.
    """
    weights = {
        "stem.0": (dim, channels, patch_size, patch_size),
        "0.fn.0": (dim, 1, kernel_size, kernel_size),
        "1": (dim, dim, 1, 1),
        HEAD: (classes, dim),
    }
    shapes = {}
    for layer, kind in layer_names(depth):
        if layer == HEAD and classes is None:
            continue
        for name, _ in TENSORS[kind]:
            vector = (classes if layer == HEAD else dim,)
            inside = BLOCK.sub("", layer)
            shapes[f"{layer}.{name}"] = weights.get(inside, vector) if name == "weight" else vector
    return shapes


def require_few_names(count: int) -> None:
    """Check the number of tensors in a file, before each is looked at.

    Raises:
        ValueError: there are more than `MOST_NAMES`; the message lacks the file's name, as its subject.
    """
    if count > MOST_NAMES:
        raise ValueError(f"names {count:,} tensors, far more than any ConvMixer has: name a file of one")


def find_names(groups: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Names:
    """Find the ConvMixer in a file, which is given as groups of named shapes.

    The most frequent prefixes of each group are tried, and the best is taken: a whole ConvMixer before a part of one, a
    moving average before the weights themselves (as in timm), then by prefix, group, and number of tensors. Other
    tensors of the group are returned as `ignored`.

    Example:

        find_names({"model": {"module.stem.0.weight": (8, 3, 2, 2), ...}, "optimizer": {...}}).group  # "model"

    Raises:
        ValueError: the file holds several ConvMixers and none is preferred, has two names for one tensor, or has very
            many names. The message lacks the file's name, as its subject.
    """
    require_few_names(sum(map(len, groups.values())))
    candidates = [found for group, shapes in groups.items() for found in _candidates(group, shapes)]
    if not candidates:
        group = max(groups, key=lambda name: len(groups[name]))
        return Names(group, {}, _others(groups[group], {}))
    best = max(candidates, key=lambda found: (found.preference, len(found.tensors)))
    if best.twice:
        raise ValueError(f"has two tensors for {best.twice}: save the model's state_dict() again")
    if best.whole:
        same = [found.place for found in candidates if found.preference == best.preference]
        if len(same) > 1:
            raise ValueError(
                f"holds several ConvMixers ({', '.join(map(repr, same))}): save the one that is meant alone"
            )
    raw = [found for found in candidates if found.whole and not found.average]
    instead = max(raw, key=lambda found: found.preference).place if best.average and raw else None
    tensors = {**best.tensors, **_head_beside(groups[best.group], best)}
    return Names(best.group, tensors, _others(groups[best.group], tensors), instead)


def _candidates(group, shapes):
    """Return a candidate for each of the most frequent prefixes of a group."""
    prefixes = Counter()  # (prefix, whether the names after it are the reference's numbers) -> number of names
    for name in shapes:
        for pattern in (_TIMM, _NUMBERED):
            if match := pattern.fullmatch(name):
                prefixes[match["prefix"], pattern is _NUMBERED] += 1
    # PyTorch's AveragedModel has `n_averaged` beside its weights, which are under `module.`.
    counted = {f"{name.removesuffix('n_averaged')}module." for name in shapes if name.endswith("n_averaged")}
    found = []
    for (prefix, numbered), _ in prefixes.most_common(_MOST_CANDIDATES):
        tensors, twice = _translate(shapes, prefix, numbered)
        sizes = architecture_of({timms: shapes[files] for timms, files in tensors.items()})
        whole = sizes is not None and all(name in tensors for name in tensor_shapes(**sizes))
        average = prefix in counted or bool(_AVERAGE.search(f"{group}.{prefix}"))
        found.append(_Candidate(group, prefix, tensors, twice, whole, average))
    return found


def _translate(shapes, prefix, numbered):
    """Return timm's name -> the file's for the names with a prefix, and a name of timm's that two of them mean."""
    rests = {name: name.removeprefix(prefix) for name in shapes if name.startswith(prefix)}
    belong = _NUMBER if numbered else re.compile(rf"(?:stem|blocks|{HEAD})\.")
    own = {name: rest for name, rest in rests.items() if belong.match(rest) and not _ends_with(rest, MEASURES)}
    last = max((int(rest.split(".")[0]) for rest in own.values()), default=0) if numbered else None
    tensors, twice = {}, None
    for name, rest in own.items():
        timms = _name_of_sequential(rest, last) if numbered else rest
        if _ends_with(timms, _COUNTERS):
            continue
        if timms in tensors:
            twice = timms
        tensors[timms] = name
    return tensors, twice


def _head_beside(shapes, body):
    """Return the names of a classifier beside a body with another prefix: `fc.weight` beside `backbone.stem.0.weight`.

    timm's name -> the file's name; empty if the body has its own classifier, or several layers could be it.
    """
    if not body.whole or f"{HEAD}.weight" in body.tensors:
        return {}
    dim = shapes[body.tensors["stem.0.weight"]][0]
    found = []
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".")
        last = layer.rsplit(".", 1)[-1]
        known = last in _HEADS or (last.isdecimal() and body.prefix.rstrip(".").isdecimal())
        if part == "weight" and known and shape[1:] == (dim,) and shapes.get(f"{layer}.bias") == shape[:1]:
            found.append(layer)
    return {f"{HEAD}.{part}": f"{found[0]}.{part}" for part in ("weight", "bias")} if len(found) == 1 else {}


def _others(shapes, tensors):
    """Return the names of a group that are not among `tensors`, without PyTorch's counters."""
    used = set(tensors.values())
    return tuple(name for name in shapes if name not in used and not _ends_with(name, _COUNTERS))


def _ends_with(name, parts):
    return name.rsplit(".", 1)[-1] in parts


def _name_of_sequential(name, head):
    """Translate the reference's name of a tensor to timm's; `head` is the number of the last layer.

    Its nn.Sequential has the stem at 0 (convolution) and 2 (normalization), the blocks from 3 on, and the head last:
    with 2 blocks and head 7, "3.1.bias" is "blocks.0.1.bias" and "7.bias" is "head.bias".
    """
    first, rest = name.split(".", 1)
    number = int(first)
    if number in (0, 2):
        return f"stem.{name}"
    if rest in ("weight", "bias") and number == head:
        return f"{HEAD}.{rest}"
    return f"blocks.{number - 3}.{rest}" if number > 2 else name
