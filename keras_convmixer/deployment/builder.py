"""Add layers to the deployed model: unique names, weights, groups of channels, and what could not be folded."""

from typing import Any

import keras
import numpy as np

from ..environment.keras_internals import Functional, all_layers, producer
from .pending import PendingTensor

CHANNELS_LAST = {"data_format": "channels_last"}
"""Passed explicitly, so that Keras's global setting has no effect."""
SPLITS = 4
"""Most outputs of XNNPACK's SPLIT. For more groups of channels, a tensor is sliced once for each."""
JOINS = 4
"""Most groups of channels that are joined at once. XNNPACK takes CONCATENATIONs of up to 5 inputs."""


class Builder:
    """Adds layers to a model that is deployed for one of `deploy.TARGETS`."""

    def __init__(self, target: str):
        self.target = target
        self.for_litert = target != "tensorflow"
        self.for_xnnpack = target in ("litert", "litert_int8")
        self._named: dict[str, object] = {}  # every operation of the deployed model, by name
        self._clones: dict[int, Any] = {}  # copies of layers with weights, by the original's id

    def add(self, kind: type, name: str, **arguments) -> keras.layers.Layer:
        """Return a new float32 layer."""
        return self._name(kind(dtype="float32", **arguments), name)

    def linear(self, original: keras.layers.Layer, tensor, weights: list, name: str, **changes):
        """Call a new convolution or dense layer, configured as `original` but for `changes`, with new weights."""
        # Without what concerns training alone, which may be objects of the user's own.
        kernel = "depthwise" if isinstance(original, keras.layers.DepthwiseConv2D) else "kernel"
        plain = {f"{kernel}_initializer": "zeros", f"{kernel}_regularizer": None, f"{kernel}_constraint": None}
        plain |= {"bias_initializer": "zeros", "bias_regularizer": None, "bias_constraint": None}
        plain |= {"activity_regularizer": None, "use_bias": len(weights) == 2, "activation": original.activation}
        layer = type(original).from_config({**original.get_config(), **plain, **changes})
        return call_with_weights(self._name(layer, name), tensor, weights)

    def copy(self, operation):
        """Return a new copy of a layer or operation, without its weights.

        If its configuration does not suffice, as for a Lambda or a layer with a vocabulary, it is returned itself.
        """
        if type(operation) in (keras.Sequential, Functional):
            return self._name(keras.models.clone_model(operation), operation.name)
        if not hasattr(operation, "get_vocabulary"):
            try:
                return self._name(type(operation).from_config(operation.get_config()), operation.name)
            except (ValueError, TypeError, NotImplementedError):
                pass
        self._named[operation.name] = operation
        return operation

    def call(self, operation, *arguments, **keywords):
        """Call a copy of a layer or operation, the same one each time if it has weights, which are copied too."""
        weights = isinstance(operation, keras.layers.Layer) and operation.get_weights()
        if not weights:
            return self.copy(operation)(*arguments, **keywords)
        if id(operation) not in self._clones:
            self._clones[id(operation)] = self.copy(operation)
        copy = self._clones[id(operation)]
        result = copy(*arguments, **keywords)
        copy.set_weights(weights)
        for layer in all_layers(copy):
            if hasattr(layer, "finalize_state"):  # Normalization computes with what this reads from its weights
                layer.finalize_state()
        return result

    def rename(self, operation, name: str) -> None:
        """Give a layer of the deployed model a name; a layer that has this name gets another one."""
        former = self._named.pop(name, None)
        if former is not None and former is not operation:
            self._name(former, f"{name}_part")
        operation.name = name
        self._named[name] = operation

    def _name(self, operation, base):
        """Name an operation `base`, or `base_2`, `base_3`, ... if the name is taken."""
        name, number = base, 1
        while name in self._named:
            number += 1
            name = f"{base}_{number}"
        operation.name = name
        self._named[name] = operation
        return operation

    def apply(self, pending: PendingTensor) -> list:
        """Apply a tensor's pending scale and shift, once for all layers that use it; return its tensors.

        For LiteRT it is a 1x1 depthwise convolution with a bias: one microkernel of XNNPACK, and one rounding in int8,
        where a multiplication and an addition are two, and one scale for all channels' factors. Otherwise it is a
        BatchNormalization.
        """
        tensors = pending.materialize()
        if pending.affine is not None and pending.affine.changes:
            applied, start = [], 0
            for tensor in tensors:
                stop = start + tensor.shape[-1]
                applied.append(self._apply(tensor, pending.affine.part(slice(start, stop)), pending.name))
                start = stop
            pending.set_applied(applied)
            tensors = applied
        return tensors

    def _apply(self, tensor, affine, name):
        if self.for_litert and len(tensor.shape) == 4:
            one_tap = {"kernel_size": 1, "use_bias": affine.shifts, **CHANNELS_LAST}
            layer = self.add(keras.layers.DepthwiseConv2D, name, **one_tap)
            weights = [affine.scale[None, None, :, None], *([affine.shift] if affine.shifts else [])]
        else:
            layer = self.add(keras.layers.BatchNormalization, name, epsilon=0.0)
            weights = [affine.scale, affine.shift, np.zeros_like(affine.scale), np.ones_like(affine.scale)]
        return call_with_weights(layer, tensor, weights)

    def whole(self, pending: PendingTensor):
        """Return a tensor as one tensor of all channels, with its scale and shift applied."""
        self.apply(pending)
        return self.groups(pending, 1)[0]

    def groups(self, pending: PendingTensor, count: int) -> list:
        """Return a tensor as `count` equal groups of channels, before its scale and shift."""
        return pending.in_groups(count, self._regroup)

    def _regroup(self, tensors, count):
        if count > 1:
            (tensor,) = tensors
            return self.split(tensor, count)
        return [self._joined(tensors, f"{producer(tensors[0]).name}_joined")]

    def _joined(self, tensors, name):
        """Join groups of channels in steps: 8 by fours, then the two results.

        CPU time of two float32 layers, as a share of that with all groups joined at once, measured in turns in one run:
        0.89 for 9x9 kernels on 16x16x1024, 0.94 for 7x7 on 32x32x768. Joining the first 4 of 8, then that and the other
        4, copies less, and takes 1.00 and 0.97.
        """
        while len(tensors) > JOINS:
            parts = [tensors[start : start + JOINS] for start in range(0, len(tensors), JOINS)]
            tensors = [self._joined(part, name) for part in parts]
        return self.add(keras.layers.Concatenate, name)(tensors) if len(tensors) > 1 else tensors[0]

    def split(self, tensor, count: int, axis: int = -1) -> list:
        """Split a tensor into equal parts, groups of channels unless `axis` is another than the last."""
        if count <= SPLITS or axis != -1:
            parts = keras.ops.split(tensor, count, axis=axis)
        else:
            size = tensor.shape[-1] // count
            parts = [tensor[..., start : start + size] for start in range(0, count * size, size)]
        name = f"{producer(tensor).name}_split"
        for operation in {id(producer(part)): producer(part) for part in parts}.values():
            self._name(operation, name)
        return parts


def call_with_weights(layer, tensor, weights: list):
    """Call a new layer and give it weights."""
    result = layer(tensor)
    layer.set_weights([weight.astype("float32") for weight in weights])
    return result
