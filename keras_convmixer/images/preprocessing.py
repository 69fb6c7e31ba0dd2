"""One definition of evaluation preprocessing: what training evaluates on is what serving and prediction see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .decoding import LARGEST, MAX_PIXELS, MIN_SIDE, ImageSource, read_image

LEAST_CROP = 0.25
"""Smallest `Preprocessing.crop_fraction`: the whole image is enlarged before it is cut, which takes memory."""


@dataclass(frozen=True)
class Preprocessing:
    """Turn an image of any size into pixels for the model: resize the shorter side, cut out the center.

    The result is uint8 in 0..255, `[height, width, channels]`, RGB or (one channel) grey; scaling to the
    model's range is inside the model. As timm evaluates the published weights: bicubic, with antialias.

    Raises ValueError: a field is out of its range.

    Example:
        ```python
        preprocessing = kc.Preprocessing(height=224, width=224, crop_fraction=0.96)
        preprocessing.load("photo.png").shape  # (224, 224, 3)
        ```
    """

    height: int
    width: int
    channels: int = 3
    crop_fraction: float = 1.0
    """Share of the resized image's shorter side that the model sees; the paper's ImageNet models: 0.96."""
    max_pixels: int = MAX_PIXELS
    """Largest image that is read, height times width: one takes 3 bytes a pixel, and a file of 83 kB may hold 25
    million."""

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: images have 1 (grey) or 3 (RGB)")
        if not LEAST_CROP <= self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction}: allowed is {LEAST_CROP} to 1")
        smallest = MIN_SIDE**2
        if not smallest <= self.max_pixels <= LARGEST:
            raise ValueError(f"max_pixels={self.max_pixels}: allowed is {smallest} to {LARGEST}")

    def load(self, source: ImageSource) -> np.ndarray:
        """Read and prepare one image; return uint8 `[height, width, channels]`.

        Args:
            source: the path of a file or its content, uint8 pixels `[height, width, 3]` (RGB) or `[height, width]`
                (grey), or a Pillow image.

        Raises what `read_image` raises: ValueError where the source is not an image, is damaged, or is an array of
        another shape or dtype.

        Example:
            ```python
            preprocessing = kc.Preprocessing(8, 8)
            preprocessing.load("photo.png")
            preprocessing.load(np.zeros((480, 640, 3), "uint8"))  # a frame of a video, RGB
            ```
        """
        return self.apply(read_image(source, self.max_pixels))

    def batch(self, sources: Sequence[ImageSource] | np.ndarray) -> np.ndarray:
        """Read and prepare several images; return uint8 `[count, height, width, channels]`.

        Args:
            sources: what `load` takes, in a list or as one array `[count, height, width, channels]`.

        Raises what `load` raises.

        Example:
            ```python
            kc.Preprocessing(224, 224).batch(images).shape  # (len(images), 224, 224, 3)
            ```
        """
        prepared = np.empty((len(sources), self.height, self.width, self.channels), np.uint8)
        for index, source in enumerate(sources):
            prepared[index] = self.load(source)
        return prepared

    def apply(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Prepare an RGB or grey image in memory; return uint8 `[height, width, channels]`.

        Source: `transforms_imagenet_eval` of timm with torchvision's Resize and CenterCrop, whose roundings
        these are.

        Args:
            image: a Pillow image, taken as upright and opaque, as `read_image` returns them, or an array as for `load`.

        Raises ValueError: an array of another shape or dtype.

        Example:
            ```python
            kc.Preprocessing(8, 8, channels=1).apply(images[0]).shape  # (8, 8, 1)
            ```
        """
        if not isinstance(image, Image.Image):
            image = read_image(image, self.max_pixels)
        image = image.convert("RGB" if self.channels == 3 else "L")
        height, width = int(self.height / self.crop_fraction), int(self.width / self.crop_fraction)
        if height * image.width >= width * image.height:
            size = (height * image.width // image.height, height)
        else:
            size = (width, width * image.height // image.width)
        if size != image.size:
            # Rows, then columns, rounded between: Pillow since 13 takes columns first where that is faster, and where
            # black lies beside white the two orders differ by up to 30 of 255.
            image = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
            image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image).reshape(self.height, self.width, self.channels)

    def facts(self) -> dict:
        """Return all that another program needs to prepare images alike, as JSON.

        Example:
            ```python
            kc.Preprocessing(224, 224).facts()["interpolation"]  # "bicubic, with antialias"
            ```
        """
        return {
            "orientation": "upright by EXIF",
            "transparent": "on white",
            "colours": "RGB" if self.channels == 3 else "grey",
            "resize": "the shorter side to floor(size / crop_fraction)",
            "interpolation": "bicubic, with antialias",
            "crop": "centre",
            "crop_fraction": self.crop_fraction,
            "max_pixels": self.max_pixels,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
        }

    @classmethod
    def from_facts(cls, facts: dict) -> Preprocessing:
        """Return the preprocessing that `facts` described; keys that this version does not know are ignored.

        Example:
            ```python
            facts = kc.export.read_manifest("bundle")["artifacts"][0]["preprocessing"]
            kc.Preprocessing.from_facts(facts).load("photo.png")
            ```
        """
        largest = facts.get("max_pixels", MAX_PIXELS)
        return cls(facts["height"], facts["width"], facts["channels"], facts["crop_fraction"], largest)
