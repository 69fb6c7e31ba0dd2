"""One definition of evaluation preprocessing: what training evaluates on is what serving and prediction see."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Preprocessing:
    """Turn a picture of any size into pixels for the model: resize the shorter side, cut out the centre.

    The result is uint8 in 0..255, `[height, width, channels]`, RGB or (one channel) grey; scaling to the
    model's range is inside the model. As timm evaluates the published weights: bicubic, with antialias.
    """

    height: int
    width: int
    channels: int = 3
    crop_fraction: float = 1.0
    """Share of the resized picture's shorter side that the model sees; the paper's ImageNet models: 0.96."""

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: pictures have 1 (grey) or 3 (RGB)")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction}: allowed is more than 0 and at most 1")

    def load(self, path: Path) -> np.ndarray:
        """Read a picture file and prepare it; raises what `read_image` raises."""
        return self.apply(read_image(path))

    def apply(self, image: Image.Image) -> np.ndarray:
        """Prepare an RGB or grey Pillow image: uint8 `[height, width, channels]`.

        Source: `transforms_imagenet_eval` of timm with torchvision's Resize and CenterCrop, whose roundings
        these are.
        """
        image = image.convert("RGB" if self.channels == 3 else "L")
        height, width = int(self.height / self.crop_fraction), int(self.width / self.crop_fraction)
        if height * image.width >= width * image.height:
            size = (height * image.width // image.height, height)
        else:
            size = (width, width * image.height // image.width)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image).reshape(self.height, self.width, self.channels)

    def facts(self) -> dict:
        """All that another program needs to prepare pictures alike, as JSON."""
        return {
            "orientation": "upright by EXIF",
            "transparent": "on white",
            "colours": "RGB" if self.channels == 3 else "grey",
            "resize": "the shorter side to floor(size / crop_fraction)",
            "interpolation": "bicubic, with antialias",
            "crop": "centre",
            "crop_fraction": self.crop_fraction,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
        }

    @classmethod
    def from_facts(cls, facts: dict) -> "Preprocessing":
        """Return what `facts` described; keys that this version does not know are left out."""
        return cls(facts["height"], facts["width"], facts["channels"], facts["crop_fraction"])


def read_image(file: Path | bytes) -> Image.Image:
    """Read a picture file, or what is in one, as a person sees it: RGB, upright by EXIF, on white where transparent.

    Of an animation, the first frame. 16-bit greyscale keeps its high byte.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, is damaged, has 32-bit pixels or over 179 million, is under 2 pixels
            high or wide, or a hundred times longer than wide.
    """
    path = "the picture" if isinstance(file, bytes) else Path(file)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else path) as image:
            kind = image.format
            image.load()
            image = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: name the picture files in it") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that Pillow can read: give a PNG or JPEG file") from None
    except PermissionError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large ({error}): make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:
        if getattr(error, "errno", None):  # the system's: the file may be whole
            raise
        raise ValueError(f"{path} is damaged ({error}): get the file again") from None
    if min(image.size) < 2:
        raise ValueError(
            f"{path} is {image.width}x{image.height} pixels, too small to show anything: give a picture of at least 2x2"
        )
    if max(image.size) > 100 * min(image.size):
        raise ValueError(f"{path} is {image.width}x{image.height} pixels, too thin to show anything: cut a part out")
    if image.mode in ("I", "F") and kind != "PNG":
        raise ValueError(f"{path} has 32-bit pixels, whose black and white nobody knows: save it with 8 or 16 bits")
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, in older Pillows read from PNG as 32; convert() would clip at 255
        values = np.asarray(image).astype(np.uint32)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
