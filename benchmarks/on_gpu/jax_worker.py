"""The GPU benchmark's process on JAX: layers of each form, and whole ConvMixers in the layout of their form.

`gpu.py` starts it, writes a task a line to its stdin and reads an answer a line. Imports Keras with its JAX backend,
JAX and NumPy only.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time

import jax
import jax.numpy as jnp
import numpy as np
from depthwise import FORMS, layout
from keras import ops
from tasks import answer_tasks, median_seconds, read_clocks

LEARNING_RATE, WEIGHT_DECAY, CLIP, MOMENTUM, EPSILON = 1e-3, 0.005, 1.0, 0.9, 1e-5


def matrix_peak(size: int, dtype: str) -> dict:
    """Measure a large matrix product on random numbers and a copy: the ceilings of this card."""
    a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0)))
    product = compiled(jnp.matmul, a, b)
    seconds = median_seconds(lambda: product(a, b), jax.block_until_ready)
    copy = compiled(lambda x: -x, a)
    copying = median_seconds(lambda: copy(a), jax.block_until_ready)
    return {
        "milliseconds": seconds * 1e3,
        "tflops": 2 * size**3 / seconds / 1e12,
        "copy_gb_per_second": 2 * a.nbytes / copying / 1e9,
        **read_clocks(lambda: jax.block_until_ready(product(a, b))),
    }


def compiled(function, *arguments):
    """Compile ahead of time, so that memory_analysis is to be had and compilation is never timed."""
    return jax.jit(function).lower(*arguments).compile()


def planned_megabytes(program) -> float | None:
    """Return the peak memory that XLA plans for a program, its arguments included."""
    found = program.memory_analysis()
    if found is None:
        return None
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return (held + found.temp_size_in_bytes) / 1e6


_EXPECTED = {}  # what form "keras" computed for a layer: the others are compared with it


def layer(
    form: str, direction: str, batch: int, side: int, dim: int, kernel_size: int, dtype: str, compare: bool
) -> dict:
    """Time one depthwise layer; with `compare`, compare outputs and gradients with form "keras"."""
    case = (direction, batch, side, dim, kernel_size, dtype)
    if compare and case not in _EXPECTED:
        _EXPECTED.clear()
        _EXPECTED[case] = _layer_values("keras", *case)[0]
    values, program, arguments, compiling = _layer_values(form, *case)
    if form == "keras":
        _EXPECTED.clear()
        _EXPECTED[case] = values
    difference = None
    if compare:
        difference = max(relative_difference(v, e) for v, e in zip(values, _EXPECTED[case], strict=True))
    seconds = median_seconds(lambda: program(*arguments), jax.block_until_ready)
    return {
        "milliseconds": seconds * 1e3,
        "images_per_second": batch / seconds,
        "compile_seconds": compiling,
        "megabytes": planned_megabytes(program),
        "difference": difference,
        **read_clocks(lambda: jax.block_until_ready(program(*arguments))),
    }


def _layer_values(form, direction, batch, side, dim, kernel_size, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, upstream = (jax.random.normal(key, (batch, side, side, dim), dtype) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (kernel_size, kernel_size, dim), dtype) / kernel_size
    channel_major = layout(form) == "channel-major"
    if channel_major:
        x, upstream = (jnp.transpose(a, (3, 0, 1, 2)) for a in (x, upstream))

    def forward(x, kernel):
        return (FORMS[form](x, kernel),)

    def forward_and_backward(x, kernel, upstream):
        y, gradients = jax.vjp(FORMS[form], x, kernel)
        return y, *gradients(upstream)

    arguments = (x, kernel) if direction == "forward" else (x, kernel, upstream)
    started = time.perf_counter()
    program = compiled(forward if direction == "forward" else forward_and_backward, *arguments)
    compiling = time.perf_counter() - started
    outputs = program(*arguments)
    few = []  # of the first images and of the kernel: whole layers would take long to fetch
    for output in outputs:
        if output.ndim == 4:
            output = jnp.transpose(output[:, :2], (1, 2, 3, 0)) if channel_major else output[:2]
        few.append(np.asarray(output, "float32"))
    return few, program, arguments, compiling


def relative_difference(value, expected) -> float:
    """Return ||value - expected|| / ||expected||."""
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def weights_of(dim: int, depth: int, kernel_size: int, patch_size: int, classes: int, seed: int = 0) -> dict:
    """Draw a ConvMixer's weights, uniform as PyTorch's; the layers' are stacked on a first axis."""
    random = np.random.default_rng(seed)

    def uniform(fan_in, *shape):
        return random.uniform(-1, 1, shape).astype("float32") / np.float32(fan_in) ** 0.5

    def normalization(*shape):
        return {"scale": np.ones(shape, "float32"), "offset": np.zeros(shape, "float32")}

    patch, taps = 3 * patch_size**2, kernel_size**2
    return {
        "stem": {"kernel": uniform(patch, dim, patch), "bias": uniform(patch, dim), "bn": normalization(dim)},
        "layers": {
            "depthwise": uniform(taps, depth, kernel_size, kernel_size, dim),
            "depthwise_bias": uniform(taps, depth, dim),
            "depthwise_bn": normalization(depth, dim),
            "pointwise": uniform(dim, depth, dim, dim),  # [output, input]
            "pointwise_bias": uniform(dim, depth, dim),
            "pointwise_bn": normalization(depth, dim),
        },
        "head": {"kernel": uniform(dim, dim, classes), "bias": uniform(dim, classes)},
    }


def statistics_of(dim: int, depth: int) -> dict:
    """Return the moving mean and variance of every normalization, at their starting values."""

    def start(*shape):
        return {"mean": np.zeros(shape, "float32"), "variance": np.ones(shape, "float32")}

    return {"stem": start(dim), "layers": {"depthwise": start(depth, dim), "pointwise": start(depth, dim)}}


class ConvMixer:
    """A ConvMixer as functions of its weights, in the layout of its form throughout.

    Channel-major, activations are `[channels, batch, height, width]`: the patch embedding and a pointwise layer are one
    product W X, and no layer transposes.
    """

    def __init__(self, form: str, kernel_size: int, patch_size: int, activation: str, dtype: str, **_):
        self.convolve, self.channel_major = FORMS[form], layout(form) == "channel-major"
        self.patch_size, self.dtype = patch_size, dtype
        self.activate = {"gelu": lambda x: ops.gelu(x, approximate=False), "relu": ops.relu}[activation]

    def logits(self, weights, statistics, images, training):
        """Return logits `[batch, classes]` of images `[batch, height, width, 3]`, and the moving statistics after."""
        stem = weights["stem"]
        x = self._pointwise(self._patches(images), stem["kernel"], stem["bias"])
        x, after_stem = self._activate_and_normalize(x, stem["bn"], statistics["stem"], training)

        def block(x, parameters):
            w, s = parameters
            y = self.convolve(x, ops.cast(w["depthwise"], self.dtype)) + self._by_channel(w["depthwise_bias"])
            y, depthwise = self._activate_and_normalize(y, w["depthwise_bn"], s["depthwise"], training)
            y = self._pointwise(x + y, w["pointwise"], w["pointwise_bias"])
            y, pointwise = self._activate_and_normalize(y, w["pointwise_bn"], s["pointwise"], training)
            return y, {"depthwise": depthwise, "pointwise": pointwise}

        # A loop over the layers, as it compiles in a twentieth of the time.
        x, after_layers = jax.lax.scan(block, x, (weights["layers"], statistics["layers"]))
        pooled = ops.mean(ops.cast(x, "float32"), axis=(2, 3) if self.channel_major else (1, 2))
        pooled = ops.transpose(pooled) if self.channel_major else pooled
        head = weights["head"]
        return pooled @ head["kernel"] + head["bias"], {"stem": after_stem, "layers": after_layers}

    def _patches(self, images):
        n, height, width, channels = images.shape
        p = self.patch_size
        x = ops.reshape(ops.cast(images, self.dtype), (n, height // p, p, width // p, p, channels))
        # [patch's values, n, h, w] or [n, h, w, patch's values]
        order = (2, 4, 5, 0, 1, 3) if self.channel_major else (0, 1, 3, 2, 4, 5)
        values, spatial = (p * p * channels,), (n, height // p, width // p)
        return ops.reshape(ops.transpose(x, order), values + spatial if self.channel_major else spatial + values)

    def _pointwise(self, x, kernel, bias):
        kernel = ops.cast(kernel, self.dtype)  # [output, input]
        if not self.channel_major:
            return x @ ops.transpose(kernel) + self._by_channel(bias)
        product = kernel @ ops.reshape(x, (x.shape[0], -1))
        return ops.reshape(product, (kernel.shape[0], *x.shape[1:])) + self._by_channel(bias)

    def _by_channel(self, values):
        values = ops.cast(values, self.dtype)
        return values[:, None, None, None] if self.channel_major else values

    def _activate_and_normalize(self, x, weights, statistics, training):
        x = ops.cast(self.activate(x), "float32")
        mean, variance = statistics["mean"], statistics["variance"]
        if training:
            axes = (1, 2, 3) if self.channel_major else (0, 1, 2)
            mean = ops.mean(x, axes)
            variance = ops.mean(x * x, axes) - mean * mean
            moved = {"mean": mean, "variance": variance}
            statistics = jax.tree.map(lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, statistics, moved)
        scale = weights["scale"] * ops.rsqrt(variance + EPSILON)
        offset = weights["offset"] - mean * scale
        if self.channel_major:
            scale, offset = scale[:, None, None, None], offset[:, None, None, None]
        return ops.cast(x * scale + offset, self.dtype), statistics

    def train(self, state, images, labels):
        """Take one step of AdamW, clipped by the global norm; return the state after it and the loss."""

        def loss(weights):
            logits, statistics = self.logits(weights, state["statistics"], images, training=True)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -jnp.mean(chosen), statistics

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(state["weights"])
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
        gradients = jax.tree.map(lambda g: g * jnp.minimum(1.0, CLIP / (norm + 1e-6)), gradients)
        step = state["step"] + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["first"], gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["second"], gradients)

        def update(w, m, v):
            move = (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)
            return w - LEARNING_RATE * (move + WEIGHT_DECAY * w)

        weights = jax.tree.map(update, state["weights"], first, second)
        after = {"weights": weights, "statistics": statistics, "first": first, "second": second, "step": step}
        return after, value


def model(form: str, direction: str, batch: int, image: int, dtype: str, classes: int = 1000, **sizes) -> dict:
    """Time a whole model's inference or training step. `outputs` are logits' first values, or the losses of 3 steps."""
    network = ConvMixer(form, dtype=dtype, **sizes)
    shape = {name: sizes[name] for name in ("dim", "depth", "kernel_size", "patch_size")}
    random = np.random.default_rng(1)
    images = jnp.asarray(random.normal(size=(batch, image, image, 3)).astype("float32"))
    labels = jnp.asarray(random.integers(0, classes, batch))
    weights = jax.device_put(weights_of(classes=classes, **shape))
    statistics = jax.device_put(statistics_of(sizes["dim"], sizes["depth"]))
    started = time.perf_counter()
    if direction == "inference":
        program = compiled(
            lambda *arguments: network.logits(*arguments, training=False)[0], weights, statistics, images
        )
        compiling = time.perf_counter() - started
        outputs = np.asarray(program(weights, statistics, images)[0, :8], "float32").tolist()

        def run():
            return program(weights, statistics, images)
    else:
        state = {"weights": weights, "statistics": statistics, "step": jnp.zeros((), "float32")}
        state["first"], state["second"] = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
        program = jax.jit(network.train, donate_argnums=0).lower(state, images, labels).compile()
        compiling = time.perf_counter() - started
        held, outputs = [state], []

        def run():
            held[0], loss = program(held[0], images, labels)
            return loss

        del state, weights, statistics
        outputs = [float(run()) for _ in range(3)]
    seconds = median_seconds(run, jax.block_until_ready)
    return {
        "milliseconds": seconds * 1e3,
        "images_per_second": batch / seconds,
        "compile_seconds": compiling,
        "megabytes": planned_megabytes(program),
        "outputs": outputs,
        **read_clocks(lambda: jax.block_until_ready(run())),
    }


def describe() -> dict:
    """Return the device and the versions on this side."""
    import keras

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    answer_tasks({"describe": describe, "peak": matrix_peak, "layer": layer, "model": model})
