"""Delayed arithmetic: a scale and a shift that go into the weights of a layer instead of being computed.

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
    """The map x -> scale * x + shift of each channel, as a normalization at inference; float64 `[channels]` both."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls, channels: int) -> Affine:
        """Return the map that changes nothing."""
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
        """Return the map that applies this one, then `other`."""
        # o.scale * (scale * x + shift) + o.shift = (scale * o.scale) * x + (shift * o.scale + o.shift)
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def part(self, channels: slice) -> Affine:
        """Return the map of some of the channels."""
        return Affine(self.scale[channels], self.shift[channels])


Activate = Callable[[list], list]
"""Adds what follows a layer and changes each number by itself: a function of tensors that returns as many."""


class Plan(Protocol):
    """The way in which a convolution or dense layer is built once its weights are final."""

    adds_pieces: bool
    """Whether it is built as a sum of several layers, each with a piece of the kernel."""

    def build(self, kernel: np.ndarray, bias: np.ndarray, activate: Activate) -> list:
        """Add the layers and `activate` to the deployed model; return the result's tensors, in groups of channels."""
        ...


@dataclass(frozen=True)
class FoldableLayer:
    """A convolution or dense layer that is not built yet, so that what follows can still go into its weights.

    Attributes:
        kernel, bias: float64, with the output channels last.
        plan: builds the layer.
        homogeneous: whether it ends in an activation f with f(scale * x) = scale * f(x) for positive scales, as ReLU.
        activations: that activation if it is a layer of its own, as a function of the layer's tensors.
    """

    kernel: np.ndarray
    bias: np.ndarray
    plan: Plan
    homogeneous: bool = False
    activations: tuple[Activate, ...] = ()

    def then(self, affine: Affine) -> tuple[FoldableLayer, Affine]:
        """Return the layer with as much of an affine map in its weights as possible, and the rest of the map.

        Without an activation, nothing is left. After a homogeneous one, the signs and the shift are left.
        """
        if self.homogeneous:  # scale * relu(x) + shift = sign * relu(|scale| * x) + shift
            size = np.abs(affine.scale)
            rest = Affine(np.where(affine.scale < 0, -1.0, 1.0), affine.shift)
            return replace(self, kernel=self.kernel * size, bias=self.bias * size), rest
        kernel, bias = self.kernel * affine.scale, self.bias * affine.scale + affine.shift
        return replace(self, kernel=kernel, bias=bias), Affine.identity(len(bias))

    def activated(self, activation: Activate) -> FoldableLayer:
        """Return the layer with a homogeneous activation after it."""
        return replace(self, homogeneous=True, activations=(*self.activations, activation))

    def build(self) -> list:
        """Add the layer to the deployed model; return its tensors, one or several groups of channels."""

        def activate(tensors):
            for activation in self.activations:
                tensors = activation(tensors)
            return tensors

        return self.plan.build(self.kernel, self.bias, activate)


class PendingTensor:
    """A tensor of the original model, with a per-channel scale and shift not yet applied.

    Its value is `affine` of the tensors of the deployed model that `materialize()` returns. Several tensors are equal
    groups of its channels, in order. For example, through convolution 1, BatchNormalization a, ReLU, BatchNormalization
    b, convolution 2:

        after           layer                                 affine
        convolution 1   convolution 1                         identity
        a               convolution 1 with a in its weights   identity
        ReLU            the same, then ReLU                   identity
        b               the same, times |b's scale|           signs of b's scale, b's shift
        convolution 2   convolution 2, with affine in its weights; before that, materialize() has added convolution 1
                        and ReLU to the deployed model

    Attributes:
        layer: the layer that will return it; None if that was built.
        affine: what is left to apply. None if the last axis has no known length or the dtype is not float32: then
            nothing is ever left.
        name: a name for the layer that will apply `affine`.
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
        # Number of groups -> the tensors, before `affine`. Each grouping is built once, for all layers that use it.
        self._groupings: dict[int, list] = {} if tensors is None else {len(tensors): tensors}

    @property
    def channels(self) -> int | None:
        """Length of the last axis."""
        return None if self.affine is None else len(self.affine.scale)

    def materialize(self) -> list:
        """Build the layer that returns it, if that was not done yet; return its tensors, before `affine`."""
        if self.layer is not None:
            tensors, self.layer = self.layer.build(), None
            self._groupings = {len(tensors): tensors}
        return next(iter(self._groupings.values()))

    def in_groups(self, count: int, regroup: Callable[[list, int], list]) -> list:
        """Return its tensors, before `affine`, as `count` equal groups of channels.

        `regroup(tensors, count)` joins several tensors into one, or splits one.
        """
        tensors = self.materialize()
        # From 4 groups to 8: through 1.
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
        """Return this tensor with an affine map applied, as far as possible in the weights of the layer before it.

        `name` is that of the map's layer in the original model.
        """
        # What is left over from an earlier map comes first, so the weights cannot take in a later one.
        if self.layer is not None and not self.affine.changes:
            layer, rest = self.layer.then(affine)
            return PendingTensor(affine=rest, layer=layer, name=name)
        result = PendingTensor(self.materialize(), self.affine.then(affine), name=name)
        result._groupings = self._groupings  # a group that one of the two splits off serves both
        return result


def _identity(tensors: list[Any]) -> Affine | None:
    """Return the identity for groups of channels; None if they have no channels of known number, or not float32."""
    lengths = [tensor.shape[-1] if len(tensor.shape) > 1 else None for tensor in tensors]
    if None in lengths or any(tensor.dtype != "float32" for tensor in tensors):
        return None
    return Affine.identity(sum(lengths))
