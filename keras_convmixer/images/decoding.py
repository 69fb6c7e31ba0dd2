"""Decode images as an image viewer shows them: upright, and on white where they are transparent."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..files.regular_files import NotAFile, open_file

ImageSource = str | Path | bytes | np.ndarray | Image.Image
"""An image as a file's path, the file's content, uint8 pixels `[height, width, channels]`, or a Pillow image."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names. Pillow opens more, for some of which it starts other programs."""
MIN_SIDE, MAX_RATIO, MAX_PIXELS = 2, 100, 50_000_000
"""Images are refused if a side is shorter than MIN_SIDE, if one side is over MAX_RATIO times the other, or if they have
more than MAX_PIXELS pixels, a limit that `Preprocessing.max_pixels` may change."""
LARGEST = 178_000_000
"""Largest `max_pixels`: Pillow itself refuses images of over 178.9 million pixels."""
STRIP = 1 << 20
"""Number of pixels of a transparent image that are laid on white at once."""


def _suffixes():
    """Return the endings of FORMATS. It imports only their plugins, in a tenth of the time of `Image.init`."""
    for name in ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Tiff", "WebP"):
        with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
            importlib.import_module(f"PIL.{name}ImagePlugin")
    readable = {*Image.OPEN, "MPO"}  # MPO is opened as JPEG
    return tuple(sorted(end for end, name in Image.EXTENSION.items() if name in FORMATS and name in readable))


SUFFIXES = _suffixes()
"""Endings of the files that are read from folders, in lower case."""


class Refused(ValueError):
    """An image that is not damaged is refused, for its size, its shape, or pixels of 32 bits."""


def read_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as RGB, upright, on white where it is transparent.

    Of an animation, the first frame is taken; of 16-bit greyscale, the high byte. The orientation is that in EXIF or
    else in XMP; if it cannot be read, it is ignored.

    Args:
        source: the path of a file, the content of one, uint8 pixels `[height, width, 3]` (RGB) or `[height, width]` or
            `[height, width, 1]` (grey), or a Pillow image, which stays as it is.
        max_pixels: largest height times width that is read.

    Raises:
        FileNotFoundError: there is no such file, or it is a link to one that does not exist.
        ValueError: the source is not an image of one of `FORMATS`, is damaged, has 32-bit pixels or over `max_pixels`,
            is under 2 pixels high or wide, or over a hundred times longer than wide; or an array of another shape or
            dtype; `NotAFile` where it is a folder, a pipe, a socket or a device, which is never read.
        OSError: the system cannot read the file.

    Example:
        ```python
        from keras_convmixer.images.decoding import read_image

        read_image("photo.png").size  # (width, height) in pixels
        ```
    """
    name = name_of(source)
    with _explaining_errors(name, max_pixels):
        if isinstance(source, (str, Path, bytes)):
            return _read_file(name, source, max_pixels)
        if isinstance(source, Image.Image):
            _check_size(name, *source.size, max_pixels)
            return _decode(name, source.copy(), source.format, _png_depth(source))
        if hasattr(source, "__array__"):  # NumPy's, TensorFlow's, PyTorch's
            return _from_array(name, np.asarray(source), max_pixels)
        raise Refused(
            f"{name} is a {type(source).__name__}: give a path, the content of a file, an array or a Pillow image; "
            "several at once go to batch"
        )


def name_of(source: ImageSource) -> str:
    """Return what a message calls an image: its path, or "the image"."""
    return str(source) if isinstance(source, (str, Path)) else "the image"


@contextlib.contextmanager
def _explaining_errors(name: str, max_pixels: int) -> Iterator[None]:
    """Turn the errors of Pillow and its decoders into messages about the image `name`."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that Pillow can read: give a PNG or JPEG file") from None
    except (FileNotFoundError, PermissionError, MemoryError, NotAFile, Refused):
        raise
    except Image.DecompressionBombError:
        raise Refused(_too_large(name, "", max_pixels)) from None
    except Exception as error:  # decoders raise errors of any type, AVIF's RuntimeError
        # The system raises these two for impossible positions in the file, which come from the file itself. Its other
        # errors do not show that the file is damaged.
        if getattr(error, "errno", None) not in (None, errno.EINVAL, errno.EOVERFLOW):
            raise
        raise ValueError(f"{name} is damaged ({error}): get the file again") from None


def _read_file(name, source, max_pixels):
    formats = [known for known in FORMATS if known in Image.OPEN]
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open_file(Path(source), "an image file") as content,
        Image.open(content, formats=formats) as image,
    ):
        _check_size(name, *image.size, max_pixels)
        kind, depth = image.format, _png_depth(image)  # which loading forgets
        image.load()
        return _decode(name, image, kind, depth)


def _check_size(name, width, height, max_pixels):
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{name} is {width}x{height} pixels, too small to show anything: give an image of at least 2x2")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Refused(f"{name} is {width}x{height} pixels, too thin to show anything: cut a part out")
    if width * height > max_pixels:
        raise Refused(_too_large(name, f"{width}x{height} pixels, and ", max_pixels))


def _too_large(name, size, max_pixels):
    return f"{name} is too large ({size}the limit is {max_pixels / 10**6:.6g} million): make it smaller"


def _from_array(name, pixels, max_pixels):
    grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[-1] == 3)):
        several = ", which goes to batch" if pixels.ndim == 4 else ""
        raise Refused(
            f"{name} is an array {list(pixels.shape)} of {pixels.dtype}{several}: give uint8 pixels 0..255, "
            "[height, width, 3] for RGB or [height, width] for grey"
        )
    _check_size(name, pixels.shape[1], pixels.shape[0], max_pixels)
    return Image.fromarray(pixels.reshape(pixels.shape[:2]) if grey else pixels).convert("RGB")


def _decode(name, image, kind, depth):
    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        raise Refused(
            f"{name} has 32-bit pixels, whose values for black and white are unknown: save it with 8 or 16 bits"
        )
    with contextlib.suppress(Exception):  # where only the metadata is damaged
        ImageOps.exif_transpose(image, in_place=True)  # a copy of 50 million pixels takes 200 MB
    return _to_rgb(image, kind, depth)


def _png_depth(image):
    """Return a PNG's bits per sample, from Pillow's name for its raw format, such as "L;4" or "RGB;16B"."""
    if image.format != "PNG" or not image.tile:
        return 8
    raw = image.tile[0][3]
    bits = str(raw[0] if isinstance(raw, tuple) else raw).partition(";")[2].rstrip("B")
    return int(bits) if bits.isdigit() else 8


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
    """Lay a transparent image on white, some rows at a time: whole it would need three more copies."""
    laid = Image.new("RGB", image.size)
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        part = image.crop(box).convert("RGBA")
        laid.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), box)
    return laid
