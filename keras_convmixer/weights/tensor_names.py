"""Names of a ConvMixer's tensors in PyTorch: timm's, the reference's numbers, and what files put before them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
# The weights of each kind of layer in Keras's order: name in PyTorch, Keras's axes in PyTorch's order.
TENSORS = {
    "Conv2D": (("weight", (3, 2, 0, 1)), ("bias", (0,))),
    "DepthwiseConv2D": (("weight", (2, 3, 0, 1)), ("bias", (0,))),
    "Dense": (("weight", (1, 0)), ("bias", (0,))),
    "BatchNormalization": (("weight", (0,)), ("bias", (0,)), ("running_mean", (0,)), ("running_var", (0,))),
}
HEAD = "head"

_PARAMETER = r"(?:weight|bias|running_mean|running_var)"
# Each finds the shortest prefix that leaves a name of a ConvMixer: "module.stem.0.weight" has the prefix "module.".
_TIMM = re.compile(
    rf"(?P<prefix>(?:.*?\.)??)(?:stem\.[02]|blocks\.\d{{1,4}}\.(?:0\.fn\.[02]|[13])|{HEAD})\.{_PARAMETER}", re.DOTALL
)
_NUMBERED = re.compile(rf"(?P<prefix>(?:.*?\.)??)\d{{1,4}}(?:\.0\.fn\.[02]|\.[13])?\.{_PARAMETER}", re.DOTALL)
_NUMBER = re.compile(r"\d{1,4}\.")
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""PyTorch's own counters, in nearly every file: they say nothing about the model, and nobody has to hear of them."""
MEASURES = ("total_ops", "total_params")
"""Counters that thop leaves in every module of a model whose operations it counted."""
_WRAPPERS = {"module", "_orig_mod", "model", "backbone", "net", "encoder", "network"}
_HEADS = {HEAD, "fc", "classifier", "linear"}
# In timm's order of preference, then others that are common.
_GROUPS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "")
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|avg)(?:[._]|$)", re.IGNORECASE)
MOST_NAMES = 100_000
"""A ConvMixer of 1,000 layers has 14,000; what names far more tensors was made to keep its reader busy."""
_MOST_CANDIDATES = 6
"""Prefixes, the most frequent, that are tried in each group; files of a stranger may have any number."""


@dataclass(frozen=True)
class Names:
    """Where in a file the tensors of a ConvMixer are."""

    group: str
    """The dictionary that holds them, such as "state_dict" or "checkpoint.model"; empty for the file itself."""
    tensors: dict[str, str]
    """The file's name of each, by timm's name."""
    ignored: tuple[str, ...] = ()
    """Names in the group of what is not part of a ConvMixer, such as a loss's weight."""
    average_instead_of: str | None = None
    """If these are a moving average, and the file has the weights themselves too: the place of the latter."""


@dataclass(frozen=True)
class _Candidate:
    group: str
    prefix: str
    tensors: dict[str, str]
    twice: str | None
    """Of a name in timm that two of the file's names mean."""
    whole: bool
    average: bool

    @property
    def place(self):
        return ".".join(part for part in (self.group, self.prefix.rstrip(".")) if part) or "the file itself"

    @property
    def preference(self):
        words = set(self.prefix.split(".")) - {""}
        group = self.group.rsplit(".", 1)[-1]
        order = _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)
        return self.whole, self.average, words <= _WRAPPERS, -order


def layer_names(depth: int) -> list[tuple[str, str]]:
    """Return name in timm and kind in Keras of each layer with weights, from the stem to the head.

    Example:

        layer_names(1)  # [("stem.0", "Conv2D"), ("stem.2", "BatchNormalization"), ("blocks.0.0.fn.0", ...), ...]
    """
    names = [("stem.0", "Conv2D"), ("stem.2", "BatchNormalization")]
    for block in range(depth):
        names += [(f"blocks.{block}.0.fn.0", "DepthwiseConv2D"), (f"blocks.{block}.0.fn.2", "BatchNormalization")]
        names += [(f"blocks.{block}.1", "Conv2D"), (f"blocks.{block}.3", "BatchNormalization")]
    return [*names, (HEAD, "Dense")]


def architecture_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int] | None:
    """Return `ConvMixer`'s arguments as the shapes tell them, `channels` too; None if they tell no whole one.

    `classes` is missing where there is no classifier.
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
    """Return the shape of each tensor of such a model in PyTorch by timm's name; `classes=None`: no classifier."""
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
    """Check the number of tensors in a file, before each is looked at. Raises ValueError: it is over `MOST_NAMES`."""
    if count > MOST_NAMES:
        raise ValueError(f"names {count:,} tensors, far more than any ConvMixer has: name a file of one")


def find_names(groups: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Names:
    """Find the ConvMixer among a file's groups of named tensors, which are given by their shapes.

    Prefixes, in any nesting, and the group are those that make the most names fit. Where a file has the weights and
    their moving average, whole, it is the average, as in timm. What fits nowhere is returned as ignored.

    Example:

        find_names({"model": {"module.stem.0.weight": (8, 3, 2, 2), ...}, "optimizer": {...}}).group  # "model"

    Raises ValueError: the file has several ConvMixers and nothing tells which one is meant, names a tensor twice, or
    names very many.
    """
    require_few_names(sum(map(len, groups.values())))
    candidates = [found for group, shapes in groups.items() for found in _candidates(group, shapes)]
    if not candidates:
        group = max(groups, key=lambda name: len(groups[name]))
        return Names(group, {}, _others(groups[group], {}))
    best = max(candidates, key=lambda found: (found.preference, len(found.tensors)))
    if best.twice:
        raise ValueError(f"names tensors of the same place twice ({best.twice}): save the model's state_dict() anew")
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
    """Return what the group may be read as, one for each prefix that names of a ConvMixer have."""
    prefixes = Counter()
    for name in shapes:
        for pattern in (_TIMM, _NUMBERED):
            if match := pattern.fullmatch(name):
                prefixes[match["prefix"], pattern is _NUMBERED] += 1
    # AveragedModel has its count of averaged steps beside its prefix `module.`.
    counted = {f"{name.removesuffix('n_averaged')}module." for name in shapes if name.endswith("n_averaged")}
    found = []
    for (prefix, numbered), _ in prefixes.most_common(_MOST_CANDIDATES):
        tensors, twice = _translate(shapes, prefix, numbered)
        sizes = architecture_of({ours: shapes[theirs] for ours, theirs in tensors.items()})
        whole = sizes is not None and all(name in tensors for name in tensor_shapes(**sizes))
        average = prefix in counted or bool(_AVERAGE.search(f"{group}.{prefix}"))
        found.append(_Candidate(group, prefix, tensors, twice, whole, average))
    return found


def _translate(shapes, prefix, numbered):
    """Return the file's names by timm's, and a name of timm's that two of the file's mean."""
    rests = {name: name.removeprefix(prefix) for name in shapes if name.startswith(prefix)}
    belong = _NUMBER if numbered else re.compile(rf"(?:stem|blocks|{HEAD})\.")
    own = {name: rest for name, rest in rests.items() if belong.match(rest) and not _ends_with(rest, MEASURES)}
    last = max((int(rest.split(".")[0]) for rest in own.values()), default=0) if numbered else None
    tensors, twice = {}, None
    for name, rest in own.items():
        ours = _name_of_sequential(rest, last) if numbered else rest
        if _ends_with(ours, _COUNTERS):
            continue
        if ours in tensors:
            twice = ours
        tensors[ours] = name
    return tensors, twice


def _head_beside(shapes, body):
    """Return a classifier's names where it stands beside a whole body: `backbone.stem.0.weight` and `fc.weight`."""
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
    used = set(tensors.values())
    return tuple(name for name in shapes if name not in used and not _ends_with(name, _COUNTERS))


def _ends_with(name, parts):
    return name.rsplit(".", 1)[-1] in parts


def _name_of_sequential(name, head):
    """Translate a name in the reference's nn.Sequential: 0 and 2 are the stem, 3 and on the blocks, last the head."""
    first, rest = name.split(".", 1)
    number = int(first)
    if number in (0, 2):
        return f"stem.{name}"
    if rest in ("weight", "bias") and number == head:
        return f"{HEAD}.{rest}"
    return f"blocks.{number - 3}.{rest}" if number > 2 else name
