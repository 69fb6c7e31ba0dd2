"""What a tensor of the original model has become: tensors of the deployed one, and what is still to be applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Affine:
    """A scale and a shift for each channel, float64 `[channels]`: what a normalization does at inference."""

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
        """Return what applying this one, then `other`, amounts to."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def part(self, channels: slice) -> Affine:
        """Return it for some of the channels."""
        return Affine(self.scale[channels], self.shift[channels])


@dataclass(frozen=True)
class Linear:
    """A convolution or dense layer that is not built yet, so that what follows can still go into its weights.

    `kernel` and `bias` are float64, the outputs' channels last; `build(kernel, bias)` returns its tensors. With
    `homogeneous` it ends in an activation that positive scales can move through, as ReLU. With `pieces` it adds up
    pieces of its kernel, and no scale moves back through an activation: normalization after ReLU scales up the
    channels that ReLU mostly stops, whose partial sums then take the int8 range from all others. Measured on a
    ConvMixer-128/6 with 7x7 kernels, 78 % on CIFAR-10: mean logit error 3.4 % of the logits' range, 0.6 % without.
    """

    kernel: np.ndarray
    bias: np.ndarray
    build: Callable[[np.ndarray, np.ndarray], list]
    homogeneous: bool = False
    pieces: bool = False

    def scaled(self, affine: Affine) -> tuple[Linear, Affine]:
        """Return it with as much of an affine map in its weights as can be, and what remains.

        Without an activation nothing remains; past one, the signs and the shift.
        """
        if self.homogeneous:
            size = np.abs(affine.scale)
            remaining = Affine(np.where(affine.scale < 0, -1.0, 1.0), affine.shift)
            return replace(self, kernel=self.kernel * size, bias=self.bias * size), remaining
        kernel, bias = self.kernel * affine.scale, self.bias * affine.scale + affine.shift
        return replace(self, kernel=kernel, bias=bias), Affine.identity(len(bias))

    def activated(self, activate: Callable[[list], list]) -> Linear:
        """Return it with a homogeneous activation after it."""
        return replace(self, homogeneous=True, build=lambda kernel, bias: activate(self.build(kernel, bias)))

    def tensors(self) -> list:
        """Build it: the tensors of its channels, one or several groups."""
        return self.build(self.kernel, self.bias)


class Signal:
    """One tensor of the original model: `affine` of the channels of `tensors`, or of what `linear` will return.

    Several tensors are groups of its channels, in order. `channels` is None for what has no last axis of known
    length or is not float32; such a signal is one tensor to which nothing remains to be applied.
    """

    def __init__(
        self,
        tensors: list | None = None,
        affine: Affine | None = None,
        linear: Linear | None = None,
        name: str = "normalization",
    ):
        self.name = name  # of the layer that applies what remains
        self._forms = {} if tensors is None else {len(tensors): tensors}
        self.linear = linear
        self.rank: int | None = None if tensors is None else len(tensors[0].shape)
        self.affine = affine
        if affine is None:
            self.affine = Affine.identity(len(linear.bias)) if linear else _identity(tensors)

    @property
    def channels(self) -> int | None:
        """Length of the last axis."""
        return None if self.affine is None else len(self.affine.scale)

    @property
    def forms(self) -> dict[int, list]:
        """Return its tensors by how many groups they are, before `affine`; builds what is not built."""
        if self.linear is not None:
            self.tensors, self.linear = self.linear.tensors(), None
        return self._forms

    @property
    def tensors(self) -> list:
        """The tensors that it was made of."""
        return next(iter(self.forms.values()))

    @tensors.setter
    def tensors(self, tensors: list) -> None:
        self._forms = {len(tensors): tensors}

    def then(self, affine: Affine, name: str) -> Signal:
        """Return the signal of an affine map of this one, as far as possible in the weights of what made it.

        `name` is that of the map's layer.
        """
        if self.linear is not None and not self.affine.changes:
            linear, remaining = self.linear.scaled(affine)
            return Signal(affine=remaining, linear=linear, name=name)
        result = Signal(self.tensors, self.affine.then(affine), name=name)
        result._forms = self.forms  # a group that one of the two cuts off serves both
        return result


def _identity(tensors):
    lengths = [tensor.shape[-1] if len(tensor.shape) > 1 else None for tensor in tensors]
    if None in lengths or any(tensor.dtype != "float32" for tensor in tensors):
        return None
    return Affine.identity(sum(lengths))
