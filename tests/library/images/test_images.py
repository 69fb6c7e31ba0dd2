import io
import struct
import subprocess

import numpy as np
import pytest
import special_files
from image_encodings import POSTSCRIPT
from PIL import Image, PngImagePlugin

from keras_convmixer import Preprocessing
from keras_convmixer.images.decoding import read_image


def gradient(height=40, width=60):
    rows, columns = np.mgrid[0:height, 0:width]
    channels = rows * 255 / (height - 1), columns * 255 / (width - 1), (rows + columns) * 255 / (height + width - 2)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def save(image, path, **options):
    image.save(path, **options)
    return path


def difference(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


def test_lossless_files_keep_their_pixels(tmp_path):
    image = gradient()
    for name in ("a.png", "a.bmp", "a.PNG"):
        assert difference(read_image(save(image, tmp_path / name)), image) == 0
    assert difference(read_image(save(image, tmp_path / "a.jpg", quality=95)), image) < 2
    assert difference(read_image(save(image, tmp_path / "a.webp", lossless=True)), image) == 0


def test_greyscale_palette_and_bilevel(tmp_path):
    image = gradient()
    grey = image.convert("L")
    assert difference(read_image(save(grey, tmp_path / "grey.png")), grey.convert("RGB")) == 0
    palette = image.quantize(16)
    assert difference(read_image(save(palette, tmp_path / "palette.png")), palette.convert("RGB")) == 0
    bilevel = image.convert("1")
    assert difference(read_image(save(bilevel, tmp_path / "bilevel.png")), bilevel.convert("RGB")) == 0


def test_cmyk(tmp_path):
    image = Image.new("RGB", (8, 8), (200, 30, 90))
    assert difference(read_image(save(image.convert("CMYK"), tmp_path / "a.jpg", quality=100)), image) < 3


def test_16_bit_greyscale_keeps_its_high_byte(tmp_path):
    values = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)
    read = read_image(save(Image.fromarray(values), tmp_path / "deep.png"))
    np.testing.assert_array_equal(np.asarray(read)[..., 0], values >> 8)


def test_16_bit_greyscale_may_be_transparent(tmp_path):
    values = np.full((8, 8), 70 << 8, np.uint16)
    values[0, 0] = 1234
    read = read_image(save(Image.fromarray(values), tmp_path / "deep.png", transparency=1234))
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 1)) == (70, 70, 70)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path, mode):
    path = tmp_path / "transparent.png"
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((1, 1), 1)
        save(image, path, transparency=0)
        ink = (255, 0, 0)
    else:
        image = Image.new(mode, (4, 4), (0,) * len(mode))
        image.putpixel((1, 1), (90, 255) if mode == "LA" else (90, 90, 90, 255))
        save(image, path)
        ink = (90, 90, 90)
    read = read_image(path)
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 1)) == ink


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    # How a camera stores the upright picture for each value of the tag (EXIF 2.3, section 4.6.4).
    stored_by = {
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,),
        7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }
    upright = stored = gradient()
    for transpose in stored_by.get(orientation, ()):
        stored = stored.transpose(transpose)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / "photo.jpg", exif=exif, quality=95)
    assert difference(read_image(path), upright) < 2


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_an_image_of_the_right_size_is_untouched():
    image = gradient(16, 16)
    np.testing.assert_array_equal(Preprocessing(16, 16).apply(image), np.asarray(image))


# By hand, after torchvision: Resize makes the shorter side floor(size / crop fraction) and the longer int(shorter *
# longer side / shorter side); CenterCrop starts at int(round(half the rest)), halves to even.
TORCHVISION = [
    # height, width    target   crop   resized to (width, height)   left, top
    ((375, 500), (224, 224), 0.96, (310, 233), (43, 4)),
    ((500, 333), (224, 224), 0.96, (233, 349), (4, 62)),
    ((500, 500), (224, 224), 0.875, (256, 256), (16, 16)),
    ((500, 505), (224, 224), 0.96, (235, 233), (6, 4)),
    ((505, 500), (224, 224), 0.96, (233, 235), (4, 6)),
    ((23, 300), (16, 16), 1.0, (208, 16), (96, 0)),
    ((7, 5), (16, 16), 1.0, (16, 22), (0, 3)),
    ((40, 60), (16, 24), 1.0, (24, 16), (0, 0)),
    ((60, 40), (16, 24), 1.0, (24, 36), (0, 10)),
]


@pytest.mark.parametrize(("size", "target", "crop_fraction", "resized", "corner"), TORCHVISION)
def test_roundings_are_torchvisions_and_interpolation_tensorflows(size, target, crop_fraction, resized, corner):
    import tensorflow as tf

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    ours = Preprocessing(*target, crop_fraction=crop_fraction).apply(image)
    assert ours.shape == (*target, 3)
    assert ours.dtype == np.uint8
    pixels = np.asarray(image, np.float32)
    theirs = tf.image.resize(pixels, resized[::-1], method="bicubic", antialias=True)
    theirs = tf.clip_by_value(theirs, 0, 255)[corner[1] : corner[1] + target[0], corner[0] : corner[0] + target[1]]
    assert difference(ours, theirs) < 1  # in noise, which a shift by one pixel would change by tens


def test_facts_round_trip_and_may_grow():
    preprocessing = Preprocessing(224, 192, channels=1, crop_fraction=0.96, max_pixels=10**6)
    assert Preprocessing.from_facts({**preprocessing.facts(), "of a later version": True}) == preprocessing


def test_one_channel_is_grey():
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    np.testing.assert_array_equal(Preprocessing(4, 4, channels=1).apply(image), np.full((4, 4, 1), 76))


@pytest.mark.parametrize(
    "arguments",
    [{"channels": 4}, {"crop_fraction": 0}, {"crop_fraction": 1.5}, {"max_pixels": 3}, {"max_pixels": 10**9}],
)
def test_preprocessing_names_the_wrong_argument(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Preprocessing(8, 8, **arguments)


def test_what_is_no_picture_is_said_to_be_none(tmp_path):
    missing = tmp_path / "missing.png"
    with pytest.raises(FileNotFoundError, match=r"missing\.png: there is no such file"):
        read_image(missing)
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        read_image(text)
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    for size in ((1, 1), (1, 30), (30, 1)):
        with pytest.raises(ValueError, match=rf"dot\.png is {size[0]}x{size[1]} pixels, too small"):
            read_image(save(Image.new("RGB", size), tmp_path / "dot.png"))
    with pytest.raises(ValueError, match=r"line\.png is 30000x2 pixels, too thin"):
        read_image(save(Image.new("RGB", (30000, 2)), tmp_path / "line.png"))
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=r"deep\.tif has 32-bit pixels"):
            read_image(save(Image.new(mode, (8, 8)), tmp_path / "deep.tif"))


@pytest.mark.parametrize(("name", "reason"), special_files.REASONS.items())
def test_a_path_that_leads_to_no_file_is_refused_without_waiting(tmp_path, name, reason):
    special_files.make(tmp_path)
    with pytest.raises((OSError, ValueError), match=rf"{name}\.png {reason}"):
        read_image(tmp_path / f"{name}.png")


def test_no_program_is_started_for_what_a_name_promises(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    Image.init()  # as another library may: now Pillow knows how to start Ghostscript
    path = tmp_path / "picture.png"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match=r"picture\.png is not an image that Pillow can read"):
        read_image(path)


def test_whatever_a_decoder_raises_is_the_pictures_failure(tmp_path, monkeypatch):
    path = save(gradient(), tmp_path / "picture.png")
    for error in (RuntimeError, KeyError, struct.error, TypeError, EOFError, AttributeError):
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image, error=error: raising(error))
        with pytest.raises(ValueError, match=r"picture\.png is damaged"):
            read_image(path)


def test_a_place_that_no_file_has_is_the_pictures_damage(tmp_path):
    path = tmp_path / "far.tif"
    path.write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**62) + bytes(64))  # BigTIFF: where its directory is
    with pytest.raises(ValueError, match=r"far\.tif is damaged|far\.tif is not an image"):
        read_image(path)


def raising(error):
    raise error("of a decoder")


def test_too_many_pixels_are_not_called_damage(tmp_path, monkeypatch):
    path = save(Image.new("1", (300, 300)), tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"huge\.png is too large"):
        read_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, format, share):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, format)
    path = tmp_path / "half"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(ValueError, match="half is damaged"):
        read_image(path)


def test_rows_are_resized_before_columns_whatever_pillow_does():
    black_and_white = np.random.default_rng(0).integers(0, 2, (300, 100, 3)).astype(np.uint8) * 255
    image = Image.fromarray(black_and_white)
    rows = image.resize((64, 300), Image.Resampling.BICUBIC)  # 192 high: cut out of its center
    expected = rows.resize((64, 192), Image.Resampling.BICUBIC).crop((0, 72, 64, 120))
    np.testing.assert_array_equal(Preprocessing(48, 64).apply(image), np.asarray(expected))


def test_more_than_50_million_pixels_are_refused_without_decoding_them(tmp_path):
    path = save(Image.new("1", (7100, 7100)), tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge\.png is too large \(7100x7100 pixels, and the limit is 50 million\)"):
        read_image(path)


def test_the_limit_of_pixels_may_be_another(tmp_path):
    path = save(Image.new("1", (300, 300)), tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"picture\.png is too large \(300x300 pixels, and the limit is 0\.089999 mil"):
        Preprocessing(8, 8, max_pixels=300 * 300 - 1).load(path)
    assert Preprocessing(8, 8, max_pixels=300 * 300).load(path).shape == (8, 8, 3)
