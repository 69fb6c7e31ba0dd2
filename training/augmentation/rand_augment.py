"""RandAugment on batches of images; each image has operations and strengths of its own, as in timm and torchvision.

Images are uint8 `[batch, height, width, 3]`. They are grouped by the operations that they draw, each group is
computed at once, and the images are put back in order: at 32 pixels this is several times faster than one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
HISTOGRAM = ("auto_contrast", "equalize")
LOOKUP = ("invert", "posterize", "solarize", "solarize_add", "brightness", "contrast")
OPERATIONS = ("identity", *GEOMETRIC, *HISTOGRAM, *LOOKUP, "color", "sharpness")


@dataclass(frozen=True)
class Space:
    """A set of operations and the meaning of their strength."""

    operations: tuple[str, ...]
    probability: float
    """Probability that an operation, once drawn, is applied."""
    translate: float
    """Translation at strength 10, as a fraction of the image's side."""
    posterize: int
    """Bits that are kept at strength 0; four fewer at 10."""
    solarize: int
    """Pixels from this value on are inverted at strength 0; from 0 on at 10."""
    fill: tuple[float, float, float]
    """Color, 0..255, where an image was moved away."""
    interpolation: str


TIMM = Space(
    operations=(*GEOMETRIC, *HISTOGRAM, *LOOKUP, "color", "sharpness"),
    probability=0.5,
    translate=0.45,
    posterize=4,
    solarize=256,
    fill=(124.0, 116.0, 104.0),  # ImageNet's mean
    interpolation="BILINEAR",  # timm draws bilinear or bicubic
)
"""timm's increasing operations, `rand-...-inc1` (timm/data/auto_augment.py); the paper's ImageNet recipes."""
TORCHVISION = Space(
    operations=(
        *("identity", *GEOMETRIC, *HISTOGRAM, "posterize", "solarize"),
        *("brightness", "contrast", "color", "sharpness"),
    ),
    probability=1.0,
    translate=150 / 331,
    posterize=8,
    solarize=255,
    fill=(0.0, 0.0, 0.0),
    interpolation="NEAREST",
)
"""torchvision's RandAugment, whose magnitude m of 30 is m / 3 here; the reference's CIFAR-10 recipes."""
SPACES = {"timm": TIMM, "torchvision": TORCHVISION}


@dataclass(frozen=True)
class RandAugment:
    """Applies `layers` random operations of a space to each image, one after the other.

    The strength of each is drawn from a normal distribution around `magnitude`, clipped to 0..10.
    """

    space: Space
    layers: int = 2
    magnitude: float = 9.0
    magnitude_deviation: float = 0.5

    DRAWS = 5
    """Uniform random numbers for each image in a layer: operation, applied or not, sign, and two for the strength."""

    def __call__(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Augment uint8 images; `draws` are uniform in 0..1, float32 `[batch, layers * DRAWS]`."""
        known = tf.constant([OPERATIONS.index(name) for name in self.space.operations])
        for layer in range(self.layers):
            which, applied, sign, first, second = tf.unstack(draws[:, layer * self.DRAWS :][:, : self.DRAWS], axis=1)
            index = tf.cast(which * len(self.space.operations), tf.int32)
            operations = tf.gather(known, tf.minimum(index, len(self.space.operations) - 1))
            operations = tf.where(applied < self.space.probability, operations, OPERATIONS.index("identity"))
            # Box-Muller transform: a normally distributed number from two uniform ones.
            normal = tf.sqrt(-2 * tf.math.log(1 - first)) * tf.cos(2 * math.pi * second)
            strengths = tf.clip_by_value(self.magnitude + self.magnitude_deviation * normal, 0, 10)
            images = apply(images, operations, strengths, tf.where(sign < 0.5, 1.0, -1.0), self.space)
        return images


def apply(
    images: tf.Tensor, operations: tf.Tensor, strengths: tf.Tensor, signs: tf.Tensor, space: Space = TIMM
) -> tf.Tensor:
    """Apply one operation to each image.

    Args:
        images: uint8 `[batch, height, width, 3]`.
        operations: int32 `[batch]`, positions in OPERATIONS.
        strengths: float32 `[batch]`, 0..10.
        signs: float32 `[batch]`, 1 or -1: the direction of operations that have one.
        space: meaning of the strengths.
    """
    groups = (("identity",), GEOMETRIC, HISTOGRAM, LOOKUP, ("color",), ("sharpness",))
    # dynamic_partition sorts the images' positions by group, dynamic_stitch puts the results back in their places.
    group_of = {name: number for number, names in enumerate(groups) for name in names}
    partition = tf.gather(tf.constant([group_of[name] for name in OPERATIONS]), operations)
    positions = tf.dynamic_partition(tf.range(tf.shape(images)[0]), partition, len(groups))
    functions = (_identity, _geometric, _histogram, _lookup, _color, _sharpness)
    results = []
    for function, chosen in zip(functions, positions, strict=True):
        of_group = [tf.gather(values, chosen) for values in (images, operations, strengths, signs)]
        # Without tf.cond the operations of an empty group would run all the same.
        result = tf.cond(tf.size(chosen) > 0, lambda f=function, a=of_group: f(*a, space), lambda a=of_group: a[0])
        results.append(tf.ensure_shape(result, (None, *images.shape[1:])))
    return tf.ensure_shape(tf.dynamic_stitch(positions, results), images.shape)


def _is(operations, name):
    return operations == OPERATIONS.index(name)


def _identity(images, operations, strengths, signs, space):
    return images


def _geometric(images, operations, strengths, signs, space):
    """Rotate, shear or translate by an affine transform.

    Pixel centers are at halves in Pillow's matrices, and at whole numbers in TensorFlow's.
    """
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(images)[1:3]))
    amount = signs * strengths / 10
    zero, one = tf.zeros_like(amount), tf.ones_like(amount)
    angle = tf.where(_is(operations, "rotate"), amount * math.radians(30), zero)
    x_by_y = tf.where(_is(operations, "shear_x"), amount * 0.3, zero)
    y_by_x = tf.where(_is(operations, "shear_y"), amount * 0.3, zero)
    right = tf.where(_is(operations, "translate_x"), amount * space.translate * width, zero)
    down = tf.where(_is(operations, "translate_y"), amount * space.translate * height, zero)
    if space.interpolation == "NEAREST":  # torchvision moves by whole pixels
        right, down = tf.math.sign(right) * tf.floor(tf.abs(right)), tf.math.sign(down) * tf.floor(tf.abs(down))
    cosine, sine = tf.cos(angle), tf.sin(angle)
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    # A transform (a, b, c, d, e, f) takes the output's pixel (x, y) from (a x + b y + c, d x + e y + f). A rotation
    # about the center c is R (p - c) + c = R p + (c - R c).
    rotation_x = center_x - cosine * center_x + sine * center_y
    rotation_y = center_y - sine * center_x - cosine * center_y
    transforms = tf.stack(
        [
            *(cosine, x_by_y - sine, rotation_x + x_by_y / 2 + right),
            *(sine + y_by_x, cosine, rotation_y + y_by_x / 2 + down),
            *(zero * one, zero),
        ],
        axis=1,
    )
    fill = tf.constant(space.fill)
    # TensorFlow fills with 0 alone, so the color to fill with is subtracted before and added afterwards.
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32) - fill,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation=space.interpolation,
        fill_mode="CONSTANT",
    )
    return _to_uint8(moved + fill + 0.5)


def _histogram(images, operations, strengths, signs, space):
    """Equalize or autocontrast each channel, as Pillow's ImageOps, with the same rounding."""
    count, height, width, channels = tf.unstack(tf.shape(images))
    values = tf.cast(tf.transpose(images, (0, 3, 1, 2)), tf.int32)
    values = tf.reshape(values, (count * channels, height * width))  # a row per channel of an image
    rows = tf.range(count * channels)[:, None] * 256
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(values), values + rows, count * channels * 256)
    histogram = tf.reshape(histogram, (-1, 256))  # [count * channels, 256]
    seen = histogram > 0
    lowest = tf.argmax(seen, axis=1, output_type=tf.int32)[:, None]
    highest = 255 - tf.argmax(seen[:, ::-1], axis=1, output_type=tf.int32)[:, None]
    value = tf.range(256)[None]

    # Autocontrast: the lowest value becomes 0 and the highest 255, in Pillow's float64 arithmetic.
    span = tf.cast(tf.maximum(highest - lowest, 1), tf.float64)
    scale = 255.0 / span
    stretched = tf.cast(value, tf.float64) * scale - tf.cast(lowest, tf.float64) * scale
    stretched = tf.clip_by_value(tf.cast(stretched, tf.int32), 0, 255)
    stretched = tf.where(highest > lowest, stretched, value)

    # Equalize: about as many pixels for each value. Pillow leaves the highest value out of the step.
    step = (height * width - tf.gather(histogram, highest, batch_dims=1)) // 255
    before = tf.cumsum(histogram, axis=1, exclusive=True)
    equal = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    equal = tf.where((step > 0) & (tf.reduce_sum(tf.cast(seen, tf.int32), 1, keepdims=True) > 1), equal, value)

    equalize = tf.repeat(_is(operations, "equalize"), channels)[:, None]
    table = tf.cast(tf.where(equalize, equal, stretched), tf.uint8)
    changed = tf.gather(table, values, batch_dims=1)
    return tf.transpose(tf.reshape(changed, (count, channels, height, width)), (0, 2, 3, 1))


def _lookup(images, operations, strengths, signs, space):
    """Apply operations on single pixel values by a table of 256 values per image."""
    value = tf.range(256)[None]
    strength = strengths[:, None]

    def choose(name, changed, otherwise):
        return tf.where(_is(operations, name)[:, None], tf.cast(changed, tf.int32), otherwise)

    bits = space.posterize - _posterized(strength, space)
    kept = tf.bitwise.left_shift(tf.bitwise.right_shift(255, 8 - bits), 8 - bits)
    threshold = space.solarize * (1 - strength / 10)
    threshold = threshold if space.solarize == 255 else tf.math.ceil(threshold)
    added = tf.minimum(tf.floor(strength * 11), 128)
    factor = _factor(strengths, signs)[:, None]
    mean = tf.floor(tf.reduce_mean(tf.cast(_grey(images), tf.float32), (1, 2))[:, None] + 0.5)
    real = tf.cast(value, tf.float32)

    # A row of the table is the new value of each value 0..255: [batch, 256]. Each operation writes its images' rows.
    table = choose("invert", 255 - value, value + tf.zeros_like(bits))
    table = choose("posterize", tf.bitwise.bitwise_and(value, kept), table)
    table = choose("solarize", tf.where(real < threshold, value, 255 - value), table)
    table = choose("solarize_add", tf.where(value < 128, tf.minimum(real + added, 255), real), table)
    table = choose("brightness", tf.clip_by_value(real * factor, 0, 255), table)
    table = choose("contrast", tf.clip_by_value(mean + factor * (real - mean), 0, 255), table)
    return tf.gather(tf.cast(table, tf.uint8), tf.cast(images, tf.int32), batch_dims=1)


def _posterized(strength, space):
    """Return the number of bits to remove, of up to four: torchvision rounds it, timm rounds down."""
    share = strength / 10 * 4
    return tf.cast(tf.round(share) if space.posterize == 8 else tf.floor(share), tf.int32)


def _factor(strengths, signs):
    """Return the factor of brightness, contrast, color and sharpness, 0.1..1.9; 1 changes nothing."""
    return tf.maximum(0.1, 1 + signs * strengths / 10 * 0.9)


def _color(images, operations, strengths, signs, space):
    return blend(_grey(images)[..., None], images, _factor(strengths, signs))


def _sharpness(images, operations, strengths, signs, space):
    """Blend with Pillow's SMOOTH filter, which leaves the border unchanged."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, 3, 1))
    inside = tf.nn.depthwise_conv2d(tf.cast(images, tf.float32), kernel, (1, 1, 1, 1), "VALID")
    inside = tf.pad(tf.floor(inside + 0.5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Where the filter's 3x3 window lies inside the image.
    ones = tf.pad(tf.ones_like(inside[:, 1:-1, 1:-1], tf.bool), ((0, 0), (1, 1), (1, 1), (0, 0)))
    smooth = tf.where(ones, inside, tf.cast(images, tf.float32))
    return blend(smooth, images, _factor(strengths, signs))


def blend(start, images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Return start + factor * (images - start) as uint8; `start` broadcasts. Pillow's Image.blend."""
    start = tf.cast(start, tf.float32)
    return _to_uint8(start + factors[:, None, None, None] * (tf.cast(images, tf.float32) - start))


def _grey(images):
    """Return the luminance of Pillow's mode "L", with its integer weights; uint8 `[batch, height, width]`."""
    red, green, blue = tf.unstack(tf.cast(images, tf.int32), axis=-1)
    return tf.cast((red * 19595 + green * 38470 + blue * 7471 + 0x8000) // 65536, tf.uint8)


def _to_uint8(values):
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)
