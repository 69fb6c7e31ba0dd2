"""An engine's list of operators, and what it says of a file's operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .nodes import Node

Rule = Callable[[Node], str | None]
"""From an operator to the reason for which an engine refuses it; None where the engine takes it."""


@dataclass(frozen=True)
class Engine:
    """An engine that runs .tflite files, or parts of them."""

    name: str
    source: str
    """Where the list is from: a file of a repository with its commit, or a page."""
    compared: bool
    """Tests compare the list with what the engine takes. False: the list is its maker's, and the engine was not run."""
    operators: dict[str, Rule | None]
    """Each operator that the engine has, with what it asks of it; None: nothing."""
    general: Rule
    """The rule for every operator, whatever its name."""
    cuts_once: bool = False
    """Everything behind the first operator that is refused is left to the CPU too."""


@dataclass(frozen=True)
class Support:
    """How many of a file's operators an engine takes.

    Example:
        ```python
        from keras_convmixer.export import inspect

        found = inspect("bundle/litert/int8.tflite").engines["Edge TPU"]
        print(found.taken, found.refused, found.source)
        ```
    """

    taken: dict[str, int]
    """Number of operators by name that the engine takes."""
    refused: dict[str, str]
    """Name of each operator of which the engine refuses one or more, with the reason."""
    source: str
    """Where the list of the engine's operators is from, or the engine that was run."""
    known_by: Literal["run", "compared list", "list"]
    """"run": by the engine, on this machine. "compared list": by a list that tests compare with the engine. "list": by
    its maker's list alone."""


def support_of(engine: Engine, nodes: Iterable[Node]) -> Support:
    """Tell which operators an engine takes by its list."""
    taken, refused = Counter(), {}
    first = None
    for node in nodes:
        reason = refusal(engine, node)
        if engine.cuts_once:
            if reason is None and first is not None:
                reason = f"behind the first {first}"
            elif reason is not None:
                first = first or node.name
        if reason is None:
            taken[node.name] += 1
        else:
            refused.setdefault(node.name, reason)
    known_by = "compared list" if engine.compared else "list"
    return Support(dict(sorted(taken.items())), dict(sorted(refused.items())), engine.source, known_by)


def refusal(engine: Engine, node: Node) -> str | None:
    """Return the reason for which an engine refuses an operator by its list; None where it takes it."""
    if node.name not in engine.operators:
        return "not in its list"
    rule = engine.operators[node.name]
    return engine.general(node) or (rule(node) if rule else None)


def one_of(*dtypes: str) -> Rule:
    """Return a rule: inputs and outputs that are computed have one of these dtypes."""

    def rule(node):
        other = next((tensor.dtype for tensor in node.computed if tensor.dtype not in dtypes), None)
        return other and f"on {other}"

    return rule


def without_activation(node: Node) -> str | None:
    """Refuse an operator with a fused activation."""
    return "with a fused activation" if node.option("fusedActivationFunction") else None


def without_strides(node: Node) -> str | None:
    """Refuse a STRIDED_SLICE that leaves out values, or adds or drops dimensions."""
    if node.option("shrinkAxisMask") or node.option("newAxisMask") or node.option("ellipsisMask"):
        return "with dropped or added dimensions"
    strides = node.inputs[3].integers
    return None if strides is not None and set(strides) == {1} else "with strides"
