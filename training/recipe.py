"""Recipes: everything that decides a trained model, in four parts: model, data, augmentation, optimization."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from keras_convmixer.images.preprocessing import LEAST_CROP

_ZERO_OR_MORE = ("0 or more", lambda value: value >= 0)
_FRACTION = ("0 or more and less than 1", lambda value: 0 <= value < 1)
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    # The augmentation multiplies the seed by 7, the number of its purposes, and that has to fit in an int32.
    "seed": ("0 to 200,000,000", lambda value: 0 <= value <= 200_000_000),
    **dict.fromkeys(("weight_decay", "mixup_alpha", "cutmix_alpha", "color_jitter"), _ZERO_OR_MORE),
    **dict.fromkeys(("rand_augment_magnitude", "rand_augment_magnitude_std"), _ZERO_OR_MORE),
    **dict.fromkeys(("label_smoothing", "ema_decay"), _FRACTION),
    "crop_fraction": (f"{LEAST_CROP} to 1", lambda value: LEAST_CROP <= value <= 1),
    "erasing_probability": ("0 to 1", lambda value: 0 <= value <= 1),
    "crop_scale": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "crop_ratio": ("1 or more", lambda value: value >= 1),
    "any other": ("more than 0", lambda value: value > 0),
}
"""Allowed range of each numeric field: in words, and as a predicate."""
TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""Field types in words."""
ABSTRACT_TYPES = {int: Integral, float: Real}
"""Types that a number may have instead of its field's own: NumPy's numbers belong to them."""


class _CheckedFields:
    """A dataclass whose fields are checked when it is created; a ValueError names the field and its value."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name in PARTS:
                continue  # a part has checked its own fields
            value = getattr(self, field.name)
            _check_type(field.name, field.type, value)
            if isinstance(value, (str, bool)):
                continue
            allowed, is_allowed = RANGES.get(field.name, RANGES["any other"])
            if not (math.isfinite(value) and is_allowed(value)):
                raise ValueError(f"{field.name}={value}: give {allowed}")


@dataclass(frozen=True)
class ModelConfig(_CheckedFields):
    """Architecture and initial weights of the ConvMixer that is trained."""

    image_size: int
    """Height and width of the model's input images, in pixels."""
    dim: int
    """Channels of every layer."""
    depth: int
    """Number of layers."""
    kernel_size: int
    """Height and width of the depthwise kernels, in patches."""
    patch_size: int
    """Side of a patch, in pixels."""
    activation: str = "gelu"
    """Name of a Keras activation."""
    weights: str = ""
    """Initial weights: a file of weights, or `imagenet` for the published ones; empty: random."""


@dataclass(frozen=True)
class DataConfig(_CheckedFields):
    """Where the images come from, and how evaluation resizes them."""

    dataset: str
    """`digits`, a folder with one subfolder of images for each label, or a data set of tensorflow-datasets."""
    data_dir: str = ""
    """Folder of tensorflow-datasets' data; empty: its own default."""
    crop_fraction: float = 1.0
    """Side of the center crop in evaluation, as a fraction of an image's shorter side."""


@dataclass(frozen=True)
class AugmentationConfig(_CheckedFields):
    """Random changes to training images and labels."""

    crop_scale: float = 1.0
    """Smallest area of a random resized crop, as a fraction of the image's; timm's ImageNet recipe: 0.08."""
    crop_ratio: float = 1.0
    """Largest aspect ratio of a random resized crop, either way; timm's ImageNet recipe: 4/3."""
    flip: bool = False
    """Flip: mirror training images horizontally, with probability 1/2; no-flip: never."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, each."""
    rand_augment: Literal["none", "timm", "torchvision"] = "none"
    """RandAugment as in timm (the paper's ImageNet recipes) or in torchvision (its CIFAR-10 recipes)."""
    rand_augment_num_ops: int = 2
    """RandAugment operations per image, one after the other."""
    rand_augment_magnitude: float = 9.0
    """Strength of the operations: 0 to 10 in timm's RandAugment, 0 to 30 in torchvision's."""
    rand_augment_magnitude_std: float = 0.0
    """Standard deviation of the strength, which is drawn for each operation; on the scale 0 to 10."""
    erasing_probability: float = 0.0
    """Probability that a rectangle of an image is replaced by noise (random erasing)."""
    mixup_alpha: float = 0.0
    """Alpha of mixup's beta distribution; 0 turns mixup off."""
    cutmix_alpha: float = 0.0
    """Alpha of CutMix's beta distribution; 0 turns CutMix off."""
    label_smoothing: float = 0.0
    """Fraction of each label that is spread evenly over all classes."""

    @property
    def random_crop(self) -> bool:
        """Whether training sees random resized crops."""
        return self.crop_scale < 1 or self.crop_ratio > 1

    @property
    def mixes_pairs(self) -> bool:
        """Whether mixup or CutMix mix the images of a pair."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def __post_init__(self):
        super().__post_init__()
        if self.rand_augment == "torchvision" and self.rand_augment_magnitude > 30:
            raise ValueError(f"rand_augment_magnitude={self.rand_augment_magnitude}: torchvision's goes to 30")


@dataclass(frozen=True)
class OptimizationConfig(_CheckedFields):
    """Batches, optimizer (AdamW), learning-rate schedule and precision."""

    epochs: int = 25
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step, over all replicas."""
    gradient_accumulation_steps: int = 1
    """Parts that a replica's share of a batch is computed in, one after the other, to save memory."""
    learning_rate: float = 0.01
    """Peak of the schedule."""
    schedule: Literal["piecewise_linear", "cosine"] = "piecewise_linear"
    """The reference's, with its peak at 40 % of the steps; or cosine after a warmup of 5 %."""
    weight_decay: float = 0.005
    """AdamW's decoupled weight decay, of kernels."""
    decay_norm_and_bias: bool = False
    """Decay biases and BatchNormalization too, as the reference's CIFAR-10 script does; otherwise kernels alone."""
    epsilon: float = 1e-3
    """AdamW's epsilon; the default is the paper's."""
    clip_norm: float = 1.0
    """Global norm that gradients are clipped to, after they were summed over the replicas."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of the weights, which is evaluated and saved; 0: none."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Keras dtype policy; auto: mixed_bfloat16 on TPUs and GPUs, mixed_float16 on GPUs before Ampere, else float32."""


@dataclass(frozen=True)
class Recipe(_CheckedFields):
    """Everything that decides a trained model: architecture, data, augmentation, optimization, seed.

    Example:
        ```python
        from keras_convmixer.training import RECIPES

        recipe = RECIPES["digits"].replace(name="short", epochs=2, dim=32)
        print(recipe.model.dim, recipe.optimization.epochs)  # 32 2
        ```

    Raises:
        ValueError: a field has another type than it is declared with, or is out of its range; the message names it.
    """

    name: str
    """Name of the run, whose folder is runs/NAME."""
    model: ModelConfig
    data: DataConfig
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    seed: int = 0
    """Seed of initialization, of the order of the images and of their augmentation."""

    def __post_init__(self):
        super().__post_init__()
        if self.name in ("", "..") or Path(self.name).name != self.name:
            raise ValueError(f"name={self.name!r}: give a name for a folder, without slashes")

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """Return the recipe that `dataclasses.asdict`, or recipe.json, holds.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed.
        """
        parts = {name: kind(**content[name]) for name, kind in PARTS.items() if name in content}
        return cls(**{**content, **parts})

    def replace(self, **changes: Any) -> "Recipe":
        """Return a copy with some fields changed, each given by its own name whichever part it is in.

        Raises:
            TypeError: there is no such field.
            ValueError: a value is not allowed.
        """
        for name in PARTS:
            part = getattr(self, name)
            # Changes of this part's fields become a new part; what is left at the end is the recipe's own, or an error.
            own = {field: changes.pop(field) for field in vars(part) if field in changes}
            changes.setdefault(name, dataclasses.replace(part, **own))
        return dataclasses.replace(self, **changes)

    def require_divisible(self, num_replicas: int) -> None:
        """Raise ValueError unless a batch can be divided among the replicas, into pairs where images are mixed."""
        batch_size, steps = self.optimization.batch_size, self.optimization.gradient_accumulation_steps
        parts = num_replicas * steps
        if batch_size % parts:
            of_each = f" in {steps} parts" if steps > 1 else ""
            raise ValueError(
                f"batch_size={batch_size} cannot be divided among {num_replicas} replicas{of_each}: give a "
                f"multiple of {parts}, such as {max(1, round(batch_size / parts)) * parts}"
            )
        if self.augmentation.mixes_pairs and batch_size // parts % 2:
            raise ValueError(
                f"batch_size={batch_size} is {batch_size // parts} images at once on each of "
                f"{num_replicas} replicas, and mixup and cutmix need pairs: give a multiple of {2 * parts}"
            )


PARTS = {
    "model": ModelConfig,
    "data": DataConfig,
    "augmentation": AugmentationConfig,
    "optimization": OptimizationConfig,
}
"""A recipe's parts; no two have a field of the same name."""


def flat_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe as `dataclasses.asdict` returns it, without its division into parts."""
    flat = {}
    for name, value in content.items():
        flat.update(value if name in PARTS and isinstance(value, dict) else {name: value})
    return flat


def _check_type(name: str, kind: Any, value: object) -> None:
    """Raise ValueError unless a field's value is of its declared type."""
    choices = get_args(kind)
    if choices:
        allowed, is_allowed = f"one of {', '.join(choices)}", value in choices
    else:
        allowed = TYPE_NAMES[kind]
        is_allowed = isinstance(value, ABSTRACT_TYPES.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
    if not is_allowed:
        raise ValueError(f"{name}={value!r}: give {allowed}")
