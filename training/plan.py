"""What a recipe will cost on given devices: memory, hours and energy, before anything is rented.

The model of a step: its operations in four kinds, each with a rate of the device.

- matrix products, the pointwise convolutions, patch embedding and classifier: 2 operations a multiplication, three
  times (forward, for the input, for the weights), by the device's peak times `MATRIX_SHARE`;
- depthwise convolutions, likewise three times, by its float32 peak times `DEPTHWISE_SHARE`, as no tensor core takes
  them, and not faster than memory gives their tensors;
- elementwise work: each layer's activations, normalizations and sum read and write `PASSES` tensors, by the memory's
  bandwidth times `MEMORY_SHARE`;
- the optimizer's pass over all weights, and the sum of gradients over replicas and hosts.

`--device here` measures this machine's rates for the recipe's own shapes, and a whole step of a model of two layers:
each kind's time is scaled by how much longer the whole takes than its parts alone, which find their tensors in the
processor's cache.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from keras_convmixer.variants import multiplications, parameters

from .recipe import Recipe

MATRIX_SHARE, DEPTHWISE_SHARE, MEMORY_SHARE = 0.5, 0.1, 0.7
"""Of a device's peak, what such work reaches; on GPUs assumed, not measured."""
PASSES = 42
"""Tensors of a layer's size that its elementwise work reads or writes in a step: activation, normalization twice each
and the sum, forward and backward."""
MEASURED = 4e9
"""Bytes of activations, at most, of what is measured on this machine."""
SAVED = 6
"""Tensors of a layer's size that wait for the backward pass: the inputs of its two convolutions, activations and
normalizations."""
OPTIMIZER_PASSES = 8
"""Numbers read or written for each weight: gradient, two moments, the weight itself."""
HOST_NETWORK, BETWEEN_GPUS = 12.5e9, 100e9
"""Bytes a second between hosts (100 Gb/s) and between the GPUs of one."""
OTHER_POWER = 1.5
"""Times the devices' power: host, fans, power supplies."""


@dataclass(frozen=True)
class Device:
    """A device's peaks."""

    name: str
    matrix: float
    """Operations a second of matrix products, in the precision that is trained in."""
    vector: float
    """Operations a second in float32, outside matrix units."""
    bandwidth: float
    """Bytes a second."""
    memory: float
    """Bytes."""
    watts: float
    bytes_per_number: int = 2
    """Of activations: bfloat16, or float16 where there is none."""


DEVICES = {
    device.name: device
    for device in (
        Device("t4", 65e12, 8.1e12, 320e9, 16e9, 70),
        Device("v100", 125e12, 15.7e12, 900e9, 32e9, 300),
        Device("rtx8000", 130e12, 16.3e12, 672e9, 48e9, 260),
        Device("l4", 121e12, 30.3e12, 300e9, 24e9, 72),
        Device("a100", 312e12, 19.5e12, 2039e9, 80e9, 400),
        Device("h100", 989e12, 67e12, 3350e9, 80e9, 700),
        Device("h200", 989e12, 67e12, 4800e9, 141e9, 700),
    )
}
"""By the manufacturer's data sheets, dense."""


SIZES = {"digits": (1257, 10), "cifar10": (49_000, 10), "imagenet2012": (1_281_167, 1000)}
"""Training images and labels of the data sets that recipes name."""


@dataclass(frozen=True)
class Rates:
    """What a device reaches, of each kind of work: operations or bytes a second."""

    matrix: float
    depthwise: float
    elementwise: float

    @classmethod
    def of(cls, device: Device) -> Rates:
        """Return the shares of a device's peaks that are assumed."""
        return cls(device.matrix * MATRIX_SHARE, device.vector * DEPTHWISE_SHARE, device.bandwidth * MEMORY_SHARE)


@dataclass(frozen=True)
class Work:
    """What a training step does for one image."""

    parameters: int
    matrix_operations: float
    depthwise_operations: float
    layer_numbers: int
    """Numbers in one layer's tensor."""
    layers: int

    @property
    def forward_operations(self) -> float:
        """To classify one image."""
        return (self.matrix_operations + self.depthwise_operations) / 3

    @classmethod
    def of(cls, recipe: Recipe, classes: int) -> Work:
        """Count it for a recipe."""
        sizes = (recipe.dim, recipe.depth, recipe.kernel_size, recipe.patch_size)
        count = multiplications(*sizes, recipe.image_size, classes)
        products = (
            2 * count["patch embedding"] + 3 * count["pointwise"] + 3 * count["classifier"]
        )  # pixels: no gradient
        return cls(
            parameters(*sizes, classes),
            2.0 * products,
            2.0 * 3 * count["depthwise"],
            (recipe.image_size // recipe.patch_size) ** 2 * recipe.dim,
            recipe.depth,
        )


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on `hosts` hosts of `gpus` devices each; seconds, bytes, kilowatt hours."""

    work: Work
    replicas: int
    share: int
    """Images of a step on each replica."""
    step_seconds: dict[str, float]
    """By kind of work."""
    steps: int
    memory: dict[str, float]
    fitting_share: int | None
    """Images that fit in a replica's memory at once; None where the memory is not known."""
    kilowatts: float | None

    @property
    def hours(self) -> float:
        """Of training."""
        return self.steps * sum(self.step_seconds.values()) / 3600

    @property
    def images_per_second(self) -> float:
        """Of all replicas."""
        return self.replicas * self.share / sum(self.step_seconds.values())

    def facts(self) -> dict:
        """All of it as JSON."""
        derived = {name: getattr(self, name) for name in ("hours", "images_per_second", "kilowatt_hours")}
        return {**asdict(self), **derived}

    @property
    def kilowatt_hours(self) -> float | None:
        """Devices and hosts; None where the power is not known."""
        return self.kilowatts and self.kilowatts * self.hours


def plan(
    recipe: Recipe, images: int, classes: int, gpus: int = 1, hosts: int = 1, device: Device | None = None
) -> Plan:
    """Estimate what training costs; `device` None: this machine's processor, measured for some seconds.

    Raises ValueError: the batch cannot be divided among the replicas.
    """
    replicas = gpus * hosts
    recipe.require_divisible(replicas)
    work, share = Work.of(recipe, classes), recipe.batch_size // replicas
    measured = _measured_images(work, share)
    rates = Rates.of(device) if device else measured_rates(recipe, measured)
    seconds = _step_seconds(work, share, rates, device)
    if device is None:
        two = replace(recipe, depth=2)
        parts = sum(_step_seconds(Work.of(two, classes), measured, rates, None).values())
        whole = measured_step(two, classes, measured) / parts
        seconds = {kind: whole * time for kind, time in seconds.items()}
    size = device.bytes_per_number if device else 4
    tensor = work.layer_numbers * size
    at_once = share // recipe.gradient_accumulation_steps
    gradients = 2 * 4 * work.parameters
    if gpus > 1:
        seconds["sum over devices"] = gradients * (gpus - 1) / gpus / BETWEEN_GPUS
    if hosts > 1:
        seconds["sum over hosts"] = gradients * (hosts - 1) / hosts / HOST_NETWORK
    copies = 4 + bool(recipe.ema_decay) + (0.5 if size == 2 else 0)  # weight, gradient, two moments; average, copy
    per_image = (SAVED * work.layers + 4) * tensor
    memory = {"weights and optimizer": 4 * copies * work.parameters, "activations": at_once * per_image}
    fitting = int((0.9 * device.memory - memory["weights and optimizer"]) / per_image) if device else None
    kilowatts = replicas * device.watts * OTHER_POWER / 1000 if device else None
    steps = recipe.epochs * (images // recipe.batch_size)
    return Plan(work, replicas, share, seconds, steps, memory, fitting, kilowatts)


def _measured_images(work: Work, share: int) -> int:
    """Return how many of a replica's images are measured at once in two layers: those that `MEASURED` bytes hold."""
    return max(min(share, int(MEASURED / ((2 * SAVED + 4) * 4 * work.layer_numbers))), 1)


def _step_seconds(work: Work, share: int, rates: Rates, device: Device | None) -> dict[str, float]:
    """Return what a replica's own work of a step takes, by kind."""
    tensor = work.layer_numbers * (device.bytes_per_number if device else 4)
    depthwise = max(
        work.depthwise_operations / rates.depthwise, 9 * work.layers * tensor / rates.elementwise if device else 0
    )
    return {
        "matrix products": share * work.matrix_operations / rates.matrix,
        "depthwise convolutions": share * depthwise,
        "elementwise": share * (work.layers + 0.5) * PASSES * tensor / rates.elementwise,
        "optimizer": work.parameters * 4 * OPTIMIZER_PASSES / rates.elementwise,
    }


def measured_rates(recipe: Recipe, share: int, seconds: float = 1.0) -> Rates:
    """Measure what this machine reaches on a recipe's layers, each kind of work for about a second."""
    import keras
    import tensorflow as tf

    from .layers import CPUDepthwiseConv2D, FusedBatchNormalization

    side = recipe.image_size // recipe.patch_size
    shape = (share, side, side, recipe.dim)
    images = tf.random.stateless_normal(shape, (0, 0))
    pointwise = keras.layers.Conv2D(recipe.dim, 1, use_bias=False)
    depthwise = CPUDepthwiseConv2D(recipe.kernel_size, padding="same")
    normalize, activate = FusedBatchNormalization(), keras.layers.Activation(recipe.activation)
    for layer in (pointwise, depthwise, normalize):
        layer.build(shape)

    def seconds_of(function, variables):
        weights = [variable.value for variable in variables]

        @tf.function
        def run():
            with tf.GradientTape() as tape:
                tape.watch(images)
                result = function()
            return tape.gradient(result, [images, *weights], output_gradients=images)

        return _time(run, seconds)

    numbers = share * side * side * recipe.dim
    product = seconds_of(lambda: pointwise(images), pointwise.trainable_variables)
    by_channel = seconds_of(lambda: depthwise(images), depthwise.trainable_variables)
    other = seconds_of(lambda: normalize(activate(images), training=True) + images, normalize.trainable_variables)
    return Rates(
        6 * numbers * recipe.dim / product,
        6 * numbers * recipe.kernel_size**2 / by_channel,
        PASSES / 2 * numbers * 4 / other,
    )


def measured_step(recipe: Recipe, classes: int, share: int, seconds: float = 3.0) -> float:
    """Return the seconds of this machine's training step of `share` images, the median over some seconds."""
    import tensorflow as tf

    from .layers import build_training_model
    from .model import build_model
    from .step import Step
    from .strategy import choose_strategy

    recipe = replace(recipe, batch_size=share, gradient_accumulation_steps=1, weights="")
    step = Step(
        build_training_model(build_model(recipe, classes, classifier_activation=None), 1),
        recipe,
        choose_strategy("one_device"),
        100,
    )
    batch = tf.zeros((share, recipe.image_size, recipe.image_size, 3)), tf.one_hot(tf.zeros(share, tf.int32), classes)
    return _time(lambda: step.run(batch).numpy(), seconds)


def _time(run, seconds):
    run()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
