"""Compare the outputs of a deployed model with those of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from ..environment.keras_internals import input_structure

TOLERANCE = 1e-4
"""Largest allowed difference, as a share of the range of an output's values."""
AMPLIFICATION = 10
"""A larger difference is allowed up to this multiple of what a change of the last bit of each input makes."""
UNKNOWN_SIDE = 64
"""Length of a side that the model leaves open, in the noise."""
IMAGES = 2
"""Number of images in a batch of noise."""


@dataclass(frozen=True)
class Verification:
    """The largest difference between a deployed model's outputs and the original's."""

    difference: float
    """Absolute, of probabilities as logarithms."""
    relative: float
    """As a share of the range of the output's values."""


def verify(
    model: keras.Model,
    deployed: keras.Model,
    images: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Run both models at inference and compare their outputs; return the largest difference.

    They run on `images`, if given, and on two batches of 2 seeded images: noise of pixels 0..255, one image darker
    than the other, and, if all inputs are floats, normally distributed noise. Sides of unknown length are 64. A
    softmax hides differences behind its largest output, so outputs that sum to 1 are compared as logarithms, which
    differ as the logits do.

    Example:
        ```python
        fast = kc.deploy(model, verified=False)
        result = kc.verify(model, fast, images=images)
        print(f"outputs differ by {result.relative:.1e} of their range")
        ```

    Args:
        model: the original.
        deployed: the model to compare with it.
        images: a batch that the models take, `[batch, height, width, channels]`; for several inputs a list or dict of
            arrays.
        tolerance: the largest difference allowed, as a share of the range of an output's values over the batch.

    Raises:
        ArithmeticError: an output differs by more than `tolerance`, is NaN or infinite where the original's is not, or
            has another shape or dtype. A model that amplifies rounding, as deep ones do on inputs unlike those they
            were trained on, may differ by 10 times as much as it does itself when the last bit of each input changes.
        ValueError: the model takes strings, for which there is no noise.
    """
    batches = [*([images] if images is not None else []), *_noise(model)]
    results = [_compare(model, deployed, batch, tolerance) for batch in batches]
    return max(results, key=lambda result: result.relative)


def _compare(model, deployed, batch, tolerance):
    expected, found = _run(model, batch), _run(deployed, batch)
    results = []
    for index, (name, one, other) in enumerate(zip(deployed.output_names, expected, found, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ArithmeticError(
                f"the deployed {model.name} returns {other.dtype} {other.shape} as {name}, and the model "
                f"{one.dtype} {one.shape}"
            )
        if not np.array_equal(np.isfinite(one), np.isfinite(other)):
            raise ArithmeticError(
                f"the deployed {model.name} returns NaN or infinity in {name} where the model does not"
            )
        result = _difference(one, other)
        if result.relative > tolerance:
            nearby = keras.tree.map_structure(_next_number, batch)
            allowed = AMPLIFICATION * _difference(one, _run(model, nearby)[index]).relative
            if not result.relative <= allowed:
                raise ArithmeticError(
                    f"the deployed {model.name} differs in {name} by {result.difference:.2g}, {result.relative:.2g} of "
                    f"the range of its values, and {max(tolerance, allowed):.0e} is allowed"
                )
        results.append(result)
    return max(results, key=lambda result: result.relative)


def _run(model, batch):
    with keras.device("cpu"):  # a GPU rounds matrix products to TF32
        outputs = keras.tree.flatten(model(batch, training=False))
        return [np.asarray(keras.ops.convert_to_numpy(output)) for output in outputs]


def _next_number(array):
    array = np.asarray(array)
    return np.nextafter(array, array.dtype.type(np.inf)) if array.dtype.kind == "f" else array


def _difference(one, other):
    comparable = np.isfinite(one) & np.isfinite(other)
    one, other = _logits(one)[comparable], _logits(other)[comparable]
    difference = float(np.abs(one - other).max(initial=0.0))
    spread = float(np.ptp(one)) if one.size else 0.0
    # Outputs that are all the same have no range: then a difference is measured by their size.
    return Verification(difference, difference / max(spread, 1e-3 * float(np.abs(one).max(initial=0.0)), 1e-30))


def _logits(output):
    output = np.asarray(output, "float64")
    if output.ndim > 1 and output.shape[-1] > 1 and (output >= 0).all() and np.allclose(output.sum(-1), 1, atol=1e-3):
        return np.log(np.maximum(output, 1e-30))
    return output


def _noise(model):
    random = np.random.default_rng(0)
    structure = input_structure(model)
    if any(tensor.dtype == "string" for tensor in model.inputs):
        raise ValueError(f"{model.name} takes strings, for which there is no noise: deploy it with verified=False")

    def pixels(tensor):
        shape = _shape(tensor)
        if tensor.dtype not in ("uint8", "float16", "bfloat16", "float32", "float64"):
            return random.integers(0, 2, shape).astype(tensor.dtype)  # an id, which may have few values
        brightness = np.linspace(0.5, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return _cast(random.uniform(0, 255, shape) * brightness, tensor)

    yield keras.tree.map_structure(pixels, structure)
    if all("float" in tensor.dtype for tensor in model.inputs):
        yield keras.tree.map_structure(lambda tensor: _cast(random.normal(size=_shape(tensor)), tensor), structure)


def _cast(values, tensor):
    # NumPy has no bfloat16; the model casts what it is given.
    return values.astype("float32" if tensor.dtype == "bfloat16" else tensor.dtype)


def _shape(tensor):
    batch, *sides = tensor.shape
    return (batch or IMAGES, *(side or UNKNOWN_SIDE for side in sides))
