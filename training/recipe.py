"""What a training run is made of."""

import math
from dataclasses import dataclass, fields
from pathlib import Path


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
    """Images in one step."""
    learning_rate: float = 0.01
    """Peak of the schedule, reached at 40 % of the steps."""
    weight_decay: float = 0.005
    """AdamW's decoupled decay of kernels; biases and BatchNormalization have none."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    crop_fraction: float = 1.0
    """Share of a picture's shorter side that evaluation sees."""
    seed: int = 0
    """Seed of initialization and of the order of the images."""

    def __post_init__(self):
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name={self.name!r}: give a name for a folder, without slashes")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            least_allowed = value >= 0 if field.name in ("seed", "weight_decay") else value > 0
            if not (least_allowed and math.isfinite(value)):
                allowed = "0 or more" if field.name in ("seed", "weight_decay") else "more than 0"
                raise ValueError(f"{field.name}={value}: give {allowed}")
