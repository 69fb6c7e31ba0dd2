"""Tensors and layers of the original model with arithmetic that is not yet applied, so that it can still be folded.

At inference a BatchNormalization is a scale and a shift for each channel:

    gamma * (x - mean) / sqrt(variance + epsilon) + beta  =  scale * x + shift
    with scale = gamma / sqrt(variance + epsilon) and shift = beta - mean * scale

After a convolution or dense layer it goes into the weights, as scale * (w x + b) + shift = (scale w) x + (scale b +
shift). With gamma 4, beta 5, mean 6, variance 3 and epsilon 1, the scale is 4 / 2 and the shift 5 - 6 * 2:

>>> kernel, bias, x = np.array([[2.0], [3.0]]), np.array([1.0]), np.array([1.0, 1.0])
>>> 4 * (x @ kernel + bias - 6) / np.sqrt(3 + 1) + 5
array([5.])
>>> folded = FoldableLayer(kernel, bias, plan=None).then(Affine(scale=np.array([2.0]), shift=np.array([-7.0])))[0]
>>> folded.kernel.ravel(), folded.bias
(array([4., 6.]), array([-5.]))
>>> x @ folded.kernel + folded.bias
array([5.])

Before a layer it goes into the weights too: w (scale x + shift) + b = (w scale) x + (b + w shift). That is exact only
where the layer pads no zeros, to which the shift would not have been added. A positive scale also moves through ReLU:
scale * relu(x) = relu(scale * x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Affine:
    """A scale and a shift for each channel, float64 `[channels]`, as a normalization at inference."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls, channels: int) -> Affine:
        """Return the one that changes nothing."""
        return cls(np.ones(channels), np.zeros(channels))

    @property
    def scales(self) -> bool:
        """Whether it multiplies any channel by anything but 1."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether it adds anything but 0 to any channel."""
        return bool(self.shift.any())

    @property
    def changes(self) -> bool:
        """Whether it is not the identity."""
        return self.scales or self.shifts

    def then(self, other: Affine) -> Affine:
        """Return the affine map that applies this one, then `other`."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def part(self, channels: slice) -> Affine:
        """Return it for some of the channels."""
        return Affine(self.scale[channels], self.shift[channels])


class Plan(Protocol):
    """How a convolution or dense layer is built once its weights are final."""

    adds_pieces: bool
    """Whether it adds up pieces of its kernel."""

    def build(self, kernel: np.ndarray, bias: np.ndarray) -> list:
        """Add the layers to the deployed model; return the tensors of the result, in groups of channels."""
        ...


@dataclass(frozen=True)
class FoldableLayer:
    """A convolution or dense layer that is not built yet, so that what follows can still go into its weights.

    `kernel` and `bias` are float64, with the output channels last. `activations` follow it, each a function of its
    tensors. If `homogeneous`, it ends in an activation that positive scales can move through, as ReLU.
    """

    kernel: np.ndarray
    bias: np.ndarray
    plan: Plan
    homogeneous: bool = False
    activations: tuple[Callable[[list], list], ...] = ()

    def then(self, affine: Affine) -> tuple[FoldableLayer, Affine]:
        """Return it with as much of an affine map in its weights as possible, and the rest of the map.

        Without an activation nothing is left. Past a homogeneous one, the signs and the shift are.
        """
        if self.homogeneous:
            size = np.abs(affine.scale)
            rest = Affine(np.where(affine.scale < 0, -1.0, 1.0), affine.shift)
            return replace(self, kernel=self.kernel * size, bias=self.bias * size), rest
        kernel, bias = self.kernel * affine.scale, self.bias * affine.scale + affine.shift
        return replace(self, kernel=kernel, bias=bias), Affine.identity(len(bias))

    def activated(self, activation: Callable[[list], list]) -> FoldableLayer:
        """Return it with a homogeneous activation after it."""
        return replace(self, homogeneous=True, activations=(*self.activations, activation))

    def build(self) -> list:
        """Add it to the deployed model; return its tensors, one or several groups of channels."""
        tensors = self.plan.build(self.kernel, self.bias)
        for activation in self.activations:
            tensors = activation(tensors)
        return tensors


class PendingTensor:
    """A tensor of the original model, with a per-channel scale and shift not yet applied.

    Its value is `affine` of the tensors of the deployed model that `materialize()` returns; several are equal groups of
    its channels, in order. `affine` is None where the tensor has no last axis of known length or is not float32: such a
    tensor is whole, and nothing is left to apply to it.

    Attributes:
        layer: the layer that will return it; None once that is built.
        affine: what is left to apply.
        name: a name for the layer that will apply it.
        rank: number of axes of the original tensor.
    """

    def __init__(
        self,
        tensors: list | None = None,
        affine: Affine | None = None,
        layer: FoldableLayer | None = None,
        name: str = "normalization",
    ):
        self.name = name
        self.layer = layer
        self.affine = affine
        if affine is None:
            self.affine = Affine.identity(len(layer.bias)) if layer else _identity(tensors)
        self.rank: int | None = None if tensors is None else len(tensors[0].shape)
        # The same channels in one group, in eight: each is made once, for all who want it so. Before `affine`.
        self._groupings: dict[int, list] = {} if tensors is None else {len(tensors): tensors}

    @property
    def channels(self) -> int | None:
        """Length of the last axis."""
        return None if self.affine is None else len(self.affine.scale)

    def materialize(self) -> list:
        """Build the layer that returns it, if it is not built yet; return its tensors, before `affine`."""
        if self.layer is not None:
            tensors, self.layer = self.layer.build(), None
            self._groupings = {len(tensors): tensors}
        return next(iter(self._groupings.values()))

    def in_groups(self, count: int, regroup: Callable[[list, int], list]) -> list:
        """Return its tensors, before `affine`, as `count` equal groups of channels.

        `regroup(tensors, count)` joins tensors into one or splits one tensor.
        """
        tensors = self.materialize()
        if 1 not in self._groupings and count not in self._groupings:
            self._groupings[1] = regroup(tensors, 1)
        if count not in self._groupings:
            self._groupings[count] = regroup(self._groupings[1], count)
        return self._groupings[count]

    def set_applied(self, tensors: list) -> None:
        """Set the tensors to which `affine` was applied."""
        self._groupings = {len(tensors): tensors}
        self.affine = Affine.identity(self.channels)

    def then(self, affine: Affine, name: str) -> PendingTensor:
        """Return an affine map of this tensor, as far as possible in the weights of the layer that returns it.

        `name` is that of the map's layer in the original model.
        """
        if self.layer is not None and not self.affine.changes:
            layer, rest = self.layer.then(affine)
            return PendingTensor(affine=rest, layer=layer, name=name)
        result = PendingTensor(self.materialize(), self.affine.then(affine), name=name)
        result._groupings = self._groupings  # a group that one of the two splits off serves both
        return result


def _identity(tensors: list[Any]) -> Affine | None:
    lengths = [tensor.shape[-1] if len(tensor.shape) > 1 else None for tensor in tensors]
    if None in lengths or any(tensor.dtype != "float32" for tensor in tensors):
        return None
    return Affine.identity(sum(lengths))
