"""What a training run is made of."""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, get_args

from keras_convmixer.images.preprocessing import LEAST_CROP

_ZERO_OR_MORE = ("0 or more", lambda value: value >= 0)
_SHARE = ("0 or more and less than 1", lambda value: 0 <= value < 1)
RANGES = {
    "seed": ("0 to 200,000,000", lambda value: 0 <= value <= 200_000_000),  # times 7 it is an int32
    **dict.fromkeys(("weight_decay", "mixup_alpha", "cutmix_alpha", "color_jitter"), _ZERO_OR_MORE),
    **dict.fromkeys(("rand_augment_magnitude", "rand_augment_magnitude_std"), _ZERO_OR_MORE),
    **dict.fromkeys(("label_smoothing", "ema_decay"), _SHARE),
    "crop_fraction": (f"{LEAST_CROP} to 1", lambda value: LEAST_CROP <= value <= 1),
    "erasing_probability": ("0 to 1", lambda value: 0 <= value <= 1),
    "crop_scale": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "crop_ratio": ("1 or more", lambda value: value >= 1),
    "any other": ("more than 0", lambda value: value > 0),
}
"""What a field's number may be: in words, and as a test."""
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""What a field's value may be, in words."""
ABSTRACT = {int: Integral, float: Real}
"""NumPy's numbers are allowed, too."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a trained model: data, architecture, optimization, seed.

    Raises ValueError where a number is out of its range; the sentence names the field.
    """

    name: str
    """Name of the run, whose folder is runs/NAME."""
    dataset: str
    """Name of the data set, or a folder with one subfolder of pictures for each label."""
    image_size: int
    """Height and width of the images that the model sees, in pixels."""
    dim: int
    """Channels of every layer."""
    depth: int
    """Number of layers."""
    kernel_size: int
    """Side of the depthwise kernels, in patches."""
    patch_size: int
    """Side of a patch, in pixels."""
    activation: str = "gelu"
    """Name of a Keras activation."""
    epochs: int = 25
    """Passes over the training images."""
    batch_size: int = 64
    """Images in one step, of all replicas together."""
    gradient_accumulation_steps: int = 1
    """Into how many parts a replica's share of a batch is divided, one after the other, to save memory."""
    learning_rate: float = 0.01
    """Peak of the schedule."""
    schedule: Literal["piecewise_linear", "cosine"] = "piecewise_linear"
    """The reference's, with its peak at 40 % of the steps; or cosine after a warmup of 5 %."""
    weight_decay: float = 0.005
    """AdamW's decoupled decay of kernels."""
    decay_norm_and_bias: bool = False
    """Decay biases and BatchNormalization too, as the reference's CIFAR-10 script does."""
    epsilon: float = 1e-3
    """AdamW's epsilon; the paper's."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm, after they were summed over the replicas."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes."""
    crop_scale: float = 1.0
    """Least share of a training picture's area that is seen; timm's ImageNet recipe: 0.08."""
    crop_ratio: float = 1.0
    """Largest ratio of width to height, or height to width, of what is seen; timm's: 4/3."""
    flip: bool = False
    """Mirror half of the training images."""
    color_jitter: float = 0.0
    """By how much brightness, contrast and saturation vary, each."""
    rand_augment: Literal["none", "timm", "torchvision"] = "none"
    """Whose RandAugment; the paper's ImageNet recipes have timm's, its CIFAR-10 recipes torchvision's."""
    rand_augment_num_ops: int = 2
    """Operations for an image, one after the other."""
    rand_augment_magnitude: float = 9.0
    """Their strength: of 10 in timm's, of 30 in torchvision's."""
    rand_augment_magnitude_std: float = 0.0
    """Standard deviation of the strength of each, of 10."""
    erasing_probability: float = 0.0
    """Share of training images of which a rectangle is replaced by noise."""
    mixup_alpha: float = 0.0
    """Alpha of the beta distribution by which images are blended; 0: not at all."""
    cutmix_alpha: float = 0.0
    """Alpha of the beta distribution by which rectangles are exchanged; 0: not at all."""
    ema_decay: float = 0.0
    """Decay per step, in the first ones lower, of an average of the weights that is evaluated and saved; 0: none."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Of computation; auto: mixed_bfloat16 on TPUs and GPUs, mixed_float16 on GPUs before Ampere, else float32."""
    weights: str = ""
    """Where training starts: a file of weights, or `imagenet` for the published ones; empty: random weights."""
    crop_fraction: float = 1.0
    """Share of a picture's shorter side that evaluation sees."""
    data_dir: str = ""
    """Folder of tensorflow-datasets' data; empty: its own default."""
    seed: int = 0
    """Seed of initialization, of the order of the images and of their augmentation."""

    @property
    def random_crop(self) -> bool:
        """Whether training sees parts of the pictures."""
        return self.crop_scale < 1 or self.crop_ratio > 1

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            _check_kind(field.name, field.type, value)
            if isinstance(value, (str, bool)):
                continue
            allowed, is_allowed = RANGES.get(field.name, RANGES["any other"])
            if not (math.isfinite(value) and is_allowed(value)):
                raise ValueError(f"{field.name}={value}: give {allowed}")
        if self.name in ("", "..") or Path(self.name).name != self.name:
            raise ValueError(f"name={self.name!r}: give a name for a folder, without slashes")
        if self.rand_augment == "torchvision" and self.rand_augment_magnitude > 30:
            raise ValueError(f"rand_augment_magnitude={self.rand_augment_magnitude}: torchvision's goes to 30")

    def require_divisible(self, replicas: int) -> None:
        """Raise ValueError where a batch cannot be divided among replicas, or not so that it can be mixed."""
        parts = replicas * self.gradient_accumulation_steps
        if self.batch_size % parts:
            of_each = f" in {self.gradient_accumulation_steps} parts" if self.gradient_accumulation_steps > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size} cannot be divided among {replicas} replicas{of_each}: give a "
                f"multiple of {parts}, as {max(1, round(self.batch_size / parts)) * parts}"
            )
        if (self.mixup_alpha or self.cutmix_alpha) and self.batch_size // parts % 2:
            raise ValueError(
                f"batch_size={self.batch_size} is {self.batch_size // parts} images at once on each of "
                f"{replicas} replicas, and mixup and cutmix need pairs: give a multiple of {2 * parts}"
            )


def _check_kind(name, kind, value):
    """Check that a field's value is of the type it is declared with."""
    choices = get_args(kind)
    if choices:
        allowed, is_allowed = f"one of {', '.join(choices)}", value in choices
    else:
        allowed = KINDS[kind]
        is_allowed = isinstance(value, ABSTRACT.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
    if not is_allowed:
        raise ValueError(f"{name}={value!r}: give {allowed}")
