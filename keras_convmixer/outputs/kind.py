"""Decide whether a classifier returns probabilities or logits, and of one label or of several."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from .activations import CLOSE, HALF_TOLERANCE, are_distributions, source_of, within_0_and_1

SINGLE, MULTI, BINARY = KINDS = ("single-label", "multi-label", "binary")
"""One softmax over the classes; one sigmoid for each of several labels; a single sigmoid."""
SUM_TOLERANCE = 1e-4
"""Largest deviation from 1 of the sum of float32 probabilities."""
IMAGES = 16
"""Number of the caller's images that a model is run on."""
UNKNOWN_SIDE = 64
"""Height or width, in pixels, of the generated images where the model leaves it open."""


@dataclass(frozen=True)
class Outputs:
    """The kind of a classifier's outputs, and the reason for that decision.

    For example: `Outputs("single-label", "softmax", "it returns logits, dense")`.
    """

    kind: str
    """One of KINDS."""
    added: str | None
    """The activation that turns the model's values into probabilities: "softmax", "sigmoid", or None."""
    reason: str
    """A clause about the model, as in "it ends in a softmax, predictions"."""


class NotFinite(ValueError):
    """A model returned NaN or infinity."""


def outputs_of(model: keras.Model, kind: str | None = None, images: np.ndarray | None = None) -> Outputs:
    """Decide whether a model returns probabilities or logits, and of which kind.

    The layers decide if they prove it: a softmax or sigmoid at the end, after which there are only operations that
    keep probabilities, such as reshape, cast or average. Otherwise the model is run on varied images. Rows that sum to
    1, with no negative value, are probabilities of one label. Values in 0..1 that come from sigmoids are probabilities
    of several labels, even if their rows sum to 1.

    Example:
        ```python
        from keras_convmixer.outputs.kind import outputs_of

        outputs_of(model)  # Outputs(kind="single-label", added=None, reason="it ends in a softmax, head_dense")
        ```

    Args:
        model: functional or Sequential, one image in, one `[batch, classes]` out.
        kind: one of KINDS, if the caller knows it; None takes it from the compiled loss or the model.
        images: images as the model will see them, `[count, height, width, channels]`, pixels 0..255; some are used.

    Raises:
        ValueError: the values are neither probabilities nor logits, or could be either.
        NotFinite: the layers do not decide, and the model returns NaN or infinity for every image.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"output_kind={kind!r}: give one of {', '.join(map(repr, KINDS))}")
    width = model.outputs[0].shape[-1]
    if (kind == BINARY) != (width == 1) and kind is not None:
        raise ValueError(f"output_kind={kind!r}, but the model has {width} outputs: a binary model has 1, others more")
    source = source_of(model.outputs[0])
    values = None  # of the outputs, if they are needed
    if not source.certain or (images is not None and source.kinds == {"logits"}):
        values = _values(model, images)
    if values is None and not source.certain:
        raise NotFinite(
            "the model returns NaN or infinity for every image, so its values do not show whether they are "
            "probabilities: its training diverged; train with a lower learning rate"
        )
    found = _one_output(model, source, values, kind) if width == 1 else _several_outputs(model, source, values, kind)
    if kind is not None and found.kind != kind:
        raise ValueError(
            f"{kind} was stated, by output_kind or by the labels' shape, but the model is {found.kind}, as "
            f"{found.reason}: state {found.kind}, or give the model another last activation"
        )
    return found


def _several_outputs(model, source, values, kind):
    """Decide for two or more outputs: by the layers if they prove it, then by values, then by what was stated."""
    return _by_layers(source, values) or _by_values(source, values) or _as_logits(model, source, values, kind)


def _by_layers(source, values):
    if source.certain and source.kinds == {"softmax"}:
        return Outputs(SINGLE, None, f"it ends in a softmax{_at(source)}")
    if source.kinds == {"sigmoid"} and (source.certain or within_0_and_1(values)):
        return Outputs(MULTI, None, f"it ends in sigmoids{_at(source)}")
    return None


def _by_values(source, values):
    if values is None:
        return None
    # The same row for all images proves nothing, as a bias may look like probabilities.
    if source.certain and np.ptp(values, axis=0).max(initial=0) < CLOSE:
        return None
    tolerance = HALF_TOLERANCE if source.half else SUM_TOLERANCE
    if are_distributions(values, tolerance):
        return Outputs(SINGLE, None, f"its rows for {len(values)} images sum to 1, with no negative value")
    if values.max() <= CLOSE and are_distributions(np.exp(values), tolerance):
        return Outputs(SINGLE, "softmax", "it returns logarithms of probabilities")  # softmax(log p) = p
    return None


def _as_logits(model, source, values, kind):
    """Decide for values that are not probabilities; refuse those that are not logits either."""
    if source.kinds == {"log-softmax"}:
        return Outputs(SINGLE, "softmax", f"it returns logarithms of probabilities{_at(source)}")
    if source.kinds <= {"softmax", "sigmoid"}:
        sums = values.sum(-1)
        raise ValueError(
            f"the model changes its {' and '.join(sorted(source.kinds))} outputs into values of "
            f"{values.min():.3g}..{values.max():.3g}, in rows that sum to {sums.min():.3g}..{sums.max():.3g}: "
            "end it in the probabilities themselves, or in their average"
        )
    if others := _other_activations(source):
        raise ValueError(
            f"the model ends in {others[0]}: end it in softmax, in sigmoid, or in logits with no activation"
        )
    stated = kind or _kind_by_loss(model, width=2)
    if source.kinds != {"logits"} and values is not None and within_0_and_1(values):
        if stated == MULTI:
            return Outputs(MULTI, None, "its values lie in 0..1, and several labels were stated")
        raise ValueError(
            f"the model returns values in 0..1 whose rows do not sum to 1, from {source.name}: end it in sigmoid, "
            'softmax or logits of Keras, or say output_kind="multi-label" if each is a label\'s probability'
        )
    why = f"it returns logits{_at(source)}" if source.kinds == {"logits"} else "some of its values lie outside 0..1"
    if stated == MULTI:
        return Outputs(MULTI, "sigmoid", f"{why}, and several labels were stated{'' if kind else ' by its loss'}")
    return Outputs(SINGLE, "softmax", why)


def _one_output(model, source, values, kind):
    """Decide for a single output, which can only be a binary model's."""
    if source.kinds == {"softmax"}:
        raise ValueError("the model has one output, and its softmax is always 1: end it in sigmoid, or in two outputs")
    within = values is not None and within_0_and_1(values)
    if source.kinds == {"sigmoid"} and (source.certain or within):
        return Outputs(BINARY, None, f"it ends in one sigmoid{_at(source)}")
    others = _other_activations(source)
    if others or source.kinds == {"sigmoid"}:
        raise ValueError(
            f"the model has one output and ends in {(others or ['sigmoid, changed'])[0]}: end it in sigmoid, whose "
            "value is the probability"
        )
    if (kind or _kind_by_loss(model, width=1)) == BINARY:
        stated = "one label was stated" if kind else "its loss is binary cross-entropy"
        if within and source.kinds != {"logits"}:
            return Outputs(BINARY, None, f"its values lie in 0..1, and {stated}")
        return Outputs(BINARY, "sigmoid", f"it returns a logit{_at(source)}, and {stated}")
    raise ValueError(
        f"the model has one output{_at(source)}, which may be a logit or any number: end it in sigmoid, compile it "
        'with keras.losses.BinaryCrossentropy(from_logits=True), or say output_kind="binary"'
    )


def _at(source):
    """Return the name of the layer with the activation, as the end of a sentence."""
    return f", {source.name}" if source.name else ""


def _other_activations(source):
    """Return the names of activations that give neither probabilities nor logits."""
    return sorted(kind.removeprefix("other ") for kind in source.kinds if kind.startswith("other "))


def _kind_by_loss(model, width):
    """Return the kind that a compiled loss on logits implies, or None."""
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    if "binary" not in name.lower() and name.lower() != "bce":
        return None
    if not getattr(loss, "from_logits", False):
        raise ValueError(
            f"the model's loss, {name}, takes probabilities, but the model returns other values: end it in sigmoid, "
            "or train it with from_logits=True"
        )
    return BINARY if width == 1 else MULTI


def _values(model, images):
    """Run the model on noise and some images; return the finite rows, float64 `[images, classes]`; None if none are."""
    given = model.inputs[0]
    batches = [varied_images(given)]
    if images is not None and len(images):
        batches.append(spread(images))
    rows = []
    with keras.device("cpu"):  # a GPU rounds matrix products to TF32
        for batch in batches:
            count = given.shape[0] or len(batch)  # a model with a fixed batch size takes exactly so many
            batch = np.resize(batch, (max(count, len(batch)), *batch.shape[1:]))  # repeats images if there are fewer
            for start in range(0, len(batch) - count + 1, count):
                values = model(keras.ops.convert_to_tensor(batch[start : start + count].astype(given.dtype)))
                rows.append(np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")), "float64"))
    rows = np.concatenate(rows)
    rows = rows[np.isfinite(rows).all(-1)]
    return rows if len(rows) else None


def spread(images: np.ndarray, count: int = IMAGES) -> np.ndarray:
    """Return up to `count` images, evenly spaced in the array because images of one label may lie together."""
    return np.asarray(images)[np.unique(np.linspace(0, len(images) - 1, count).astype(int))]


def varied_images(given: keras.KerasTensor) -> np.ndarray:
    """Return images for a model's input: black, white, noise, flat colors, a gradient.

    float32 `[13, height, width, channels]`, pixels 0..255 and, in the last two, 0..1; a side of unknown length is 64.
    """
    height, width, channels = (side or UNKNOWN_SIDE for side in given.shape[1:])
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4, height, width, channels)) * np.array([1, 1, 0.5, 0.1]).reshape(-1, 1, 1, 1)
    flat = np.broadcast_to(random.integers(0, 256, (4, 1, 1, channels)), (4, height, width, channels))
    ramp = np.linspace(0, 255, width)[None, None, :, None] * np.ones((1, height, 1, channels))
    ends = np.stack([np.zeros((height, width, channels)), np.full((height, width, channels), 255.0)])
    return np.concatenate([ends, np.floor(noise), flat, np.floor(ramp), noise[:2] / 255]).astype("float32")
