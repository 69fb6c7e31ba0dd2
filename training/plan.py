"""Estimates of what a recipe costs on given devices: memory, time and energy, before anything is rented.

A step's work is divided into four kinds, each with a rate of the device:

- matrix products (pointwise convolutions, patch embedding, classifier): 2 operations per multiplication, three times
  (forward, gradient of the input, gradient of the weights), at the device's peak times `MATRIX_SHARE`;
- depthwise convolutions: likewise three times, at the float32 peak times `DEPTHWISE_SHARE`, as tensor cores do not
  compute them, and not faster than memory delivers their tensors;
- elementwise work: the activations, normalizations and the sum of a layer read and write `PASSES` tensors, at the
  memory's bandwidth times `MEMORY_SHARE`;
- the optimizer's pass over all weights, and the sum of gradients over replicas and hosts.

For this machine's own processor the rates are measured with the recipe's shapes, and so is a whole step of a model of
two layers. The whole takes longer than its parts, which find their tensors in the processor's cache; each kind's time
is multiplied by that ratio.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from keras_convmixer.model.variants import multiplications, parameters

from .recipe import ModelConfig, Recipe

MATRIX_SHARE, DEPTHWISE_SHARE, MEMORY_SHARE = 0.5, 0.1, 0.7
"""Fraction of a device's peak that each kind of work reaches; on GPUs assumed, not measured."""
PASSES = 42
"""Tensors of a layer's size that its elementwise work reads or writes in a step: two activations, two normalizations
and the sum, forward and backward."""
MEASURED = 4e9
"""Largest number of bytes of activations in measurements on this machine."""
SAVED = 6
"""Tensors of a layer's size that are kept for the backward pass: the inputs of its two convolutions, activations and
normalizations."""
OPTIMIZER_PASSES = 8
"""Numbers read or written for each weight: gradient, two moments, the weight itself."""
HOST_NETWORK, BETWEEN_GPUS = 12.5e9, 100e9
"""Bytes per second between hosts (100 Gb/s), and between the GPUs of a host."""
OTHER_POWER = 1.5
"""Total power as a multiple of the devices': host, fans, power supplies."""


@dataclass(frozen=True)
class Device:
    """Peak rates of a device, from its data sheet."""

    name: str
    matrix: float
    """Operations per second of matrix products, in the training precision."""
    vector: float
    """Operations per second in float32, outside matrix units."""
    bandwidth: float
    """Bytes per second."""
    memory: float
    """Bytes."""
    watts: float
    bytes_per_number: int = 2
    """Bytes of a number in activations: 2 for bfloat16, or float16 on devices without it."""


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
"""Devices by name; rates are of dense matrices, from the manufacturer's data sheets."""
SIZES = {"digits": (1257, 10), "cifar10": (49_000, 10), "imagenet2012": (1_281_167, 1000)}
"""Number of training images and of labels of the data sets in the recipes."""


@dataclass(frozen=True)
class Rates:
    """Rates that a device reaches in each kind of work: operations per second, or bytes per second (elementwise)."""

    matrix: float
    depthwise: float
    elementwise: float

    @classmethod
    def of(cls, device: Device) -> Rates:
        """Return the rates that a device is assumed to reach: fractions of its peaks."""
        return cls(device.matrix * MATRIX_SHARE, device.vector * DEPTHWISE_SHARE, device.bandwidth * MEMORY_SHARE)


@dataclass(frozen=True)
class Work:
    """Work of a training step per image."""

    parameters: int
    matrix_operations: float
    depthwise_operations: float
    layer_numbers: int
    """Numbers in one layer's tensor."""
    layers: int

    @property
    def forward_operations(self) -> float:
        """Operations to classify one image."""
        return (self.matrix_operations + self.depthwise_operations) / 3

    @classmethod
    def of(cls, model: ModelConfig, classes: int) -> Work:
        """Count the work of a model."""
        sizes = (model.dim, model.depth, model.kernel_size, model.patch_size)
        count = multiplications(*sizes, model.image_size, classes)
        # The patch embedding's inputs are pixels, which need no gradient.
        products = 2 * count["patch embedding"] + 3 * count["pointwise"] + 3 * count["classifier"]
        return cls(
            parameters(*sizes, classes),
            2.0 * products,
            2.0 * 3 * count["depthwise"],
            (model.image_size // model.patch_size) ** 2 * model.dim,
            model.depth,
        )


@dataclass(frozen=True)
class Plan:
    """Estimated cost of a recipe on given devices."""

    work: Work
    replicas: int
    share: int
    """Images per step on each replica."""
    step_seconds: dict[str, float]
    """Seconds of a step by kind of work."""
    steps: int
    memory: dict[str, float]
    """Bytes of each replica by purpose."""
    fitting_share: int | None
    """Images that fit in a replica's memory at once; None if its size is not known."""
    kilowatts: float | None
    """Power of devices and hosts; None if it is not known."""

    @property
    def hours(self) -> float:
        """Hours of training."""
        return self.steps * sum(self.step_seconds.values()) / 3600

    @property
    def images_per_second(self) -> float:
        """Images per second, over all replicas."""
        return self.replicas * self.share / sum(self.step_seconds.values())

    def facts(self) -> dict:
        """Return everything as a dict for JSON."""
        derived = {name: getattr(self, name) for name in ("hours", "images_per_second", "kilowatt_hours")}
        return {**asdict(self), **derived}

    @property
    def kilowatt_hours(self) -> float | None:
        """Energy of devices and hosts; None if their power is not known."""
        return self.kilowatts and self.kilowatts * self.hours


def data_size(recipe: Recipe, images: int | None = None, classes: int | None = None) -> tuple[int, int]:
    """Return the numbers of training images and classes of a recipe's data set; given numbers take precedence.

    Raises:
        ValueError: a number is too small, or the data set is not among `SIZES` and a number is not given.
    """
    batch_size, dataset = recipe.optimization.batch_size, recipe.data.dataset
    if images is not None and images < batch_size:
        raise ValueError(f"images={images}: give the batch's {batch_size} or more")
    if classes is not None and classes < 2:
        raise ValueError(f"classes={classes}: give 2 or more")
    if dataset not in SIZES and (images is None or classes is None):
        raise ValueError(f"dataset={dataset!r} is of unknown size: give images=... and classes=...")
    known_images, known_classes = SIZES.get(dataset, (0, 0))
    return images or known_images, classes or known_classes


def plan(
    recipe: Recipe, images: int, classes: int, gpus: int = 1, hosts: int = 1, device: Device | None = None
) -> Plan:
    """Estimate what training by a recipe costs.

    Args:
        recipe: what to train.
        images: number of training images.
        classes: number of labels.
        gpus: devices of each host.
        hosts: number of hosts.
        device: type of the devices; None: this machine's processor, which is measured for some seconds.

    Raises:
        ValueError: there are no GPUs or hosts, or a batch cannot be divided among the replicas.
    """
    for name, value in (("gpus", gpus), ("hosts", hosts)):
        if value < 1:
            raise ValueError(f"{name}={value}: give 1 or more")
    replicas = gpus * hosts
    recipe.require_divisible(replicas)
    work, share = Work.of(recipe.model, classes), recipe.optimization.batch_size // replicas
    measured = _measured_images(work, share)
    rates = Rates.of(device) if device else measured_rates(recipe.model, measured)
    seconds = _step_seconds(work, share, rates, device)
    if device is None:
        # Parts measured alone find their tensors in the cache; a whole step does not. Two layers show the ratio.
        two = recipe.replace(depth=2)
        parts = sum(_step_seconds(Work.of(two.model, classes), measured, rates, None).values())
        whole = measured_step(two, classes, measured) / parts
        seconds = {kind: whole * time for kind, time in seconds.items()}
    size = device.bytes_per_number if device else 4
    tensor = work.layer_numbers * size
    at_once = share // recipe.optimization.gradient_accumulation_steps
    # A ring of n devices sends 2 (n - 1) / n times the float32 gradients through each of them.
    gradients = 2 * 4 * work.parameters
    if gpus > 1:
        seconds["sum over devices"] = gradients * (gpus - 1) / gpus / BETWEEN_GPUS
    if hosts > 1:
        seconds["sum over hosts"] = gradients * (hosts - 1) / hosts / HOST_NETWORK
    # Weight, gradient and two moments; moving average; half-precision copy.
    copies = 4 + bool(recipe.optimization.ema_decay) + (0.5 if size == 2 else 0)
    per_image = (SAVED * work.layers + 4) * tensor
    memory = {"weights and optimizer": 4 * copies * work.parameters, "activations": at_once * per_image}
    # A tenth of the memory stays free, for what TensorFlow and cuDNN take themselves.
    fitting = int((0.9 * device.memory - memory["weights and optimizer"]) / per_image) if device else None
    kilowatts = replicas * device.watts * OTHER_POWER / 1000 if device else None
    steps = recipe.optimization.epochs * (images // recipe.optimization.batch_size)
    return Plan(work, replicas, share, seconds, steps, memory, fitting, kilowatts)


def _measured_images(work: Work, share: int) -> int:
    """Return how many of a replica's images are measured at once: as many as two layers hold in `MEASURED` bytes."""
    return max(min(share, int(MEASURED / ((2 * SAVED + 4) * 4 * work.layer_numbers))), 1)


def _step_seconds(work: Work, share: int, rates: Rates, device: Device | None) -> dict[str, float]:
    """Return the seconds of a replica's own work in a step, by kind."""
    tensor = work.layer_numbers * (device.bytes_per_number if device else 4)
    # On a GPU memory may be the limit: 9 tensors of the layer's size pass through it in the three convolutions.
    depthwise = max(
        work.depthwise_operations / rates.depthwise, 9 * work.layers * tensor / rates.elementwise if device else 0
    )
    return {
        "matrix products": share * work.matrix_operations / rates.matrix,
        "depthwise convolutions": share * depthwise,
        "elementwise": share * (work.layers + 0.5) * PASSES * tensor / rates.elementwise,
        "optimizer": work.parameters * 4 * OPTIMIZER_PASSES / rates.elementwise,
    }


def measured_rates(model: ModelConfig, share: int, seconds: float = 1.0) -> Rates:
    """Measure the rates that this machine reaches on a model's layers, each kind of work for about a second."""
    import keras
    import tensorflow as tf

    from .step.layers import CPUDepthwiseConv2D, FusedBatchNormalization

    side = model.image_size // model.patch_size
    shape = (share, side, side, model.dim)
    images = tf.random.stateless_normal(shape, (0, 0))
    pointwise = keras.layers.Conv2D(model.dim, 1, use_bias=False)
    depthwise = CPUDepthwiseConv2D(model.kernel_size, padding="same")
    normalize, activate = FusedBatchNormalization(), keras.layers.Activation(model.activation)
    for layer in (pointwise, depthwise, normalize):
        layer.build(shape)

    def seconds_of(function, variables):
        weights = [variable.value for variable in variables]

        @tf.function(autograph=False)
        def run():
            with tf.GradientTape() as tape:
                tape.watch(images)
                result = function()
            return tape.gradient(result, [images, *weights], output_gradients=images)

        return _time(run, seconds)

    numbers = share * side * side * model.dim  # in one layer's tensor, of all images
    product = seconds_of(lambda: pointwise(images), pointwise.trainable_variables)
    by_channel = seconds_of(lambda: depthwise(images), depthwise.trainable_variables)
    other = seconds_of(lambda: normalize(activate(images), training=True) + images, normalize.trainable_variables)
    return Rates(
        # 2 operations for each multiplication, three times: forward and two gradients.
        6 * numbers * model.dim / product,
        6 * numbers * model.kernel_size**2 / by_channel,
        # One activation and one normalization with their sum: half of a layer's two.
        PASSES / 2 * numbers * 4 / other,
    )


def measured_step(recipe: Recipe, classes: int, share: int, seconds: float = 3.0) -> float:
    """Return the seconds of this machine's training step of `share` images, the median over some seconds."""
    import tensorflow as tf

    from .devices.strategy import choose_strategy
    from .step.model import build_model, build_training_model
    from .step.step import Step

    recipe = recipe.replace(batch_size=share, gradient_accumulation_steps=1)
    model = build_training_model(build_model(recipe.model, classes), num_replicas=1)
    step = Step(model, recipe.optimization, choose_strategy("one_device"), steps=100)
    image_size = recipe.model.image_size
    batch = tf.zeros((share, image_size, image_size, 3)), tf.one_hot(tf.zeros(share, tf.int32), classes)
    return _time(lambda: float(step.run(batch).loss), seconds)


def _time(run, seconds):
    """Return the median duration of `run` in seconds; the first call, which compiles, is not counted."""
    run()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
