"""One definition of evaluation preprocessing: what training evaluates on is what serving and prediction see."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..files.regular_files import NotAFile, open_file

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names. Among the other formats that Pillow opens, some start other programs."""
MIN_SIDE, MAX_RATIO, MAX_PIXELS = 2, 100, 50_000_000
"""Pictures are refused below this shorter side, above this ratio of the sides, and above this number of pixels, of
which `Preprocessing.max_pixels` may be another."""
STRIP = 1 << 20
"""Pixels that are laid on white at once."""
LEAST_CROP = 0.25
"""Smallest `Preprocessing.crop_fraction`: the whole picture is enlarged before it is cut, which takes memory."""
LARGEST = 178_000_000
"""Largest `Preprocessing.max_pixels`: Pillow itself refuses pictures of over 178.9 million pixels."""


def _suffixes():
    """Return the endings of the formats; import only their plugins, in a tenth of the time of `Image.init`."""
    for name in ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Tiff", "WebP"):
        with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
            importlib.import_module(f"PIL.{name}ImagePlugin")
    readable = {*Image.OPEN, "MPO"}  # MPO is opened as JPEG
    return tuple(sorted(end for end, name in Image.EXTENSION.items() if name in FORMATS and name in readable))


SUFFIXES = _suffixes()
"""Endings of the files that are read from folders, in lower case."""


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
    max_pixels: int = MAX_PIXELS
    """Largest picture that is read, height times width: one takes 3 bytes a pixel, and a file of 83 kB may hold 25
    million."""

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: pictures have 1 (grey) or 3 (RGB)")
        if not LEAST_CROP <= self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction}: allowed is {LEAST_CROP} to 1")
        smallest = MIN_SIDE**2
        if not smallest <= self.max_pixels <= LARGEST:
            raise ValueError(f"max_pixels={self.max_pixels}: allowed is {smallest} to {LARGEST}")

    def load(self, path: Path) -> np.ndarray:
        """Read a picture file and prepare it; raises what `read_image` raises."""
        return self.apply(read_image(path, self.max_pixels))

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
            # Rows, then columns, rounded between: Pillow since 13 takes columns first where that is faster, and where
            # black lies beside white the two orders differ by up to 30 of 255.
            image = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
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
            "max_pixels": self.max_pixels,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
        }

    @classmethod
    def from_facts(cls, facts: dict) -> Preprocessing:
        """Return what `facts` described; keys that this version does not know are left out."""
        largest = facts.get("max_pixels", MAX_PIXELS)
        return cls(facts["height"], facts["width"], facts["channels"], facts["crop_fraction"], largest)


def read_image(file: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture file, or the content of one, as a person sees it: RGB, upright, on white where transparent.

    Example:

        read_image(Path("photo.jpg")).size  # (3024, 4032), although the camera stored 4032x3024

    Of an animation, the first frame. 16-bit greyscale keeps its high byte. Upright is by the orientation in EXIF, or
    where there is none in XMP; one that cannot be read is left unused.

    Raises:
        FileNotFoundError: there is no such file, or it is a link to one that is not there.
        ValueError: the file is not a picture of one of `FORMATS`, is damaged, has 32-bit pixels or over `max_pixels`,
            is under 2 pixels high or wide, or over a hundred times longer than wide; `NotAFile` where it is a folder, a
            pipe, a socket or a device, which is never read.
        OSError: the system cannot read the file.
    """
    path = "the picture" if isinstance(file, bytes) else Path(file)
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with (
            io.BytesIO(file) if isinstance(file, bytes) else open_file(path, "a picture file") as content,
            Image.open(content, formats=formats) as image,
        ):
            _check_size(path, *image.size, max_pixels)
            kind, depth = image.format, _png_depth(image)
            image.load()
            if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
                raise Refused(
                    f"{path} has 32-bit pixels, whose values for black and white are unknown: save it with 8 or 16 bits"
                )
            return _to_rgb(_upright(image), kind, depth)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that Pillow can read: give a PNG or JPEG file") from None
    except (FileNotFoundError, PermissionError, MemoryError, NotAFile, Refused):
        raise
    except Image.DecompressionBombError:
        raise Refused(_too_large(path, "", max_pixels)) from None
    except Exception as error:  # decoders raise errors of any type, AVIF's RuntimeError
        # With these the system refuses a place in the file that only the file can have named; any other error of the
        # system says nothing about the file, which may be whole.
        if getattr(error, "errno", None) not in (None, errno.EINVAL, errno.EOVERFLOW):
            raise
        raise ValueError(f"{path} is damaged ({error}): get the file again") from None


class Refused(ValueError):
    """A picture is not damaged, but refused: for its size, its shape, or pixels of 32 bits."""


def _check_size(path, width, height, max_pixels):
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{path} is {width}x{height} pixels, too small to show anything: give a picture of at least 2x2")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Refused(f"{path} is {width}x{height} pixels, too thin to show anything: cut a part out")
    if width * height > max_pixels:
        raise Refused(_too_large(path, f"{width}x{height} pixels, and ", max_pixels))


def _too_large(path, size, max_pixels):
    return f"{path} is too large ({size}the limit is {max_pixels / 10**6:.6g} million): make it smaller"


def _png_depth(image):
    """Return the bits that a PNG has for each sample, by Pillow's name for how it is stored, as "L;4" or "RGB;16B"."""
    if image.format != "PNG" or not image.tile:
        return 8
    raw = image.tile[0][3]
    bits = str(raw[0] if isinstance(raw, tuple) else raw).partition(";")[2].rstrip("B")
    return int(bits) if bits.isdigit() else 8


def _upright(image):
    with contextlib.suppress(Exception):  # where only the metadata is damaged
        ImageOps.exif_transpose(image, in_place=True)  # a copy of 50 million pixels takes 200 MB
    return image


def _to_rgb(image, kind, depth):
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits, in older Pillows read from PNG as 32; convert() would clip at 255
        values = np.asarray(image).astype(np.uint32)
        grey = (values >> 8).astype(np.uint8)
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if kind == "PNG" and image.mode == "L" and isinstance(transparent, int) and depth in (2, 4):
        # Pillow spreads such pixels over 0..255, and leaves the transparent one as it is in the file.
        image.info["transparency"] = transparent * (255 // (2**depth - 1))
    if kind == "PNG" and image.mode == "RGB" and isinstance(transparent, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def _on_white(image):
    """Lay a transparent picture on white, some rows at a time: whole it would need three more copies."""
    laid = Image.new("RGB", image.size)
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        part = image.crop(box).convert("RGBA")
        laid.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), box)
    return laid
