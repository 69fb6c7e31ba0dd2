"""Picture files of every encoding that tests read: made here, with the right pixels where they are known exactly."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 33, 46
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
TRANSPOSES = {
    # How a camera stores the upright image for each value of the tag (EXIF 2.3, section 4.6.4).
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Encoding:
    """A file, the exact RGB pixels `[height, width, 3]` or None, and whether Pillow and a server's graph read it."""

    file: bytes
    pixels: np.ndarray | None = None
    tolerance: float = 0
    """Mean difference from `pixels` that the encoding itself may cause."""
    read: bool = True
    served: bool = True


def photograph(height=HEIGHT, width=WIDTH):
    """Smooth, coloured, 0..255, with an edge, so that each orientation looks different."""
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()
    image[: height // 3, width // 2 :] = 255
    return image


def encode(image, format, **options):
    with io.BytesIO() as file:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
        return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples, bits, color, before=b"", after=b"", interlaced=False):
    """Write samples `[height, width, count]` as they are: a PNG of any bit depth and color type."""

    def rows(part):
        if bits == 16:
            return b"".join(b"\0" + row.astype(">u2").tobytes() for row in part)
        places = np.arange(bits - 1, -1, -1)
        return b"".join(
            b"\0" + np.packbits((row.ravel()[:, None] >> places & 1).astype(bool)).tobytes() for row in part
        )

    parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(rows(part) for part in parts if part.size))
    half = len(pixels) // 2
    pixels = chunk(b"IDAT", pixels[:half]) + chunk(b"IDAT", pixels[half:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def on_white(colors, opacity):
    opacity = np.asarray(opacity, float)[..., None] / 255
    return np.round(colors * opacity + 255 * (1 - opacity)).astype(np.uint8)


def pngs():
    """Every bit depth and color type, with and without transparency, interlaced or not: by the specification."""
    random = np.random.default_rng(1)
    for interlaced in (False, True):
        end = "_interlaced" * interlaced
        for color, depths, count in ((0, (1, 2, 4, 8, 16), 1), (2, (8, 16), 3), (3, (1, 2, 4, 8), 1)):
            for bits in depths:
                smooth = photograph()[..., :count].astype(np.uint32) * 257 >> (16 - bits)
                palette = random.integers(0, 256, (2**bits if color == 3 else 0, 3)).astype(np.uint8)
                before = chunk(b"PLTE", palette.tobytes()) if color == 3 else b""
                seen = smooth >> 8 if bits == 16 else smooth * (255 // (2**bits - 1))
                seen = palette[smooth[..., 0]] if color == 3 else np.broadcast_to(seen, (HEIGHT, WIDTH, 3))
                name = f"{({0: 'grey', 2: 'rgb', 3: 'palette'})[color]}_{bits}{end}"
                yield name, Encoding(png(smooth, bits, color, before, interlaced=interlaced), seen.astype(np.uint8))
                chosen = smooth[20, 10]
                if color == 3:
                    opacities = random.integers(0, 256, 2**bits)
                    transparency, opacity = opacities.astype(np.uint8).tobytes(), opacities[smooth[..., 0]]
                else:
                    transparency = chosen.astype(">u2").tobytes()
                    opacity = np.where((smooth == chosen).all(-1), 0, 255)
                file = png(smooth, bits, color, before + chunk(b"tRNS", transparency), interlaced=interlaced)
                exact = (color, bits) != (2, 16)
                yield f"{name}_trns", Encoding(file, on_white(seen, opacity), served=exact, tolerance=0 if exact else 1)
        for color, count in ((4, 2), (6, 4)):
            for bits in (8, 16):
                samples = np.dstack([photograph(), photograph()[::-1, :, 0]])[..., -count:].astype(np.uint32)
                seen = on_white(np.broadcast_to(samples[..., :-1], (HEIGHT, WIDTH, 3)), samples[..., -1])
                samples = samples * (257 if bits == 16 else 1)
                name = f"{'grey' if color == 4 else 'rgb'}_alpha_{bits}{end}"
                yield name, Encoding(png(samples, bits, color, interlaced=interlaced), seen)


def tiff(orientation, order="<", kind=3):
    """EXIF with one tag, of type 3 (16 bits) or 4 (32)."""
    value = struct.pack(order + ("H2x" if kind == 3 else "I"), orientation)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def xmp(orientation, element=False):
    tag = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else f'<a tiff:Orientation="{orientation}"/>'
    return f"<x:xmpmeta>{tag}</x:xmpmeta>".encode()


def oriented():
    """Orientations 1 to 8 and those that are none, in every place where Pillow finds them."""
    image = photograph()
    stored = {value: np.asarray(Image.fromarray(image).transpose(way)) for value, way in TRANSPOSES.items()}
    stored[1] = image
    for value, pixels in stored.items():
        jpeg = encode(pixels, "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0" + tiff(value))
        yield f"jpeg_exif_{value}", Encoding(jpeg, image, tolerance=3)
        yield f"png_exif_{value}", Encoding(png(pixels, 8, 2, chunk(b"eXIf", tiff(value, ">"))), image)
        yield f"png_xmp_{value}", Encoding(png(pixels, 8, 2, xmp_chunk(value)), image)
    for name, content in (("big_endian", tiff(6, ">")), ("32_bits", tiff(6, kind=4))):
        file = encode(stored[6], "JPEG", quality=95, exif=b"Exif\0\0" + content)
        yield f"jpeg_exif_{name}", Encoding(file, image, tolerance=4)
    for name, content in (("0", tiff(0)), ("9", tiff(9)), ("damaged", b"II*\0\xff\xff\xff\x7f"), ("not", b"nothing")):
        file = encode(image, "JPEG", quality=95, exif=b"Exif\0\0" + content)
        yield f"jpeg_exif_{name}", Encoding(file, image, tolerance=4)
    for element in (False, True):
        file = encode(stored[8], "JPEG", quality=95, xmp=xmp(8, element))
        yield f"jpeg_xmp_{'element' if element else 'attribute'}", Encoding(file, image, tolerance=4)
    file = encode(stored[6], "JPEG", quality=95, xmp=xmp(3), exif=b"Exif\0\0" + tiff(6))
    yield "jpeg_exif_before_xmp", Encoding(file, image, tolerance=4)
    yield "png_exif_after_pixels", Encoding(png(stored[7], 8, 2, after=chunk(b"eXIf", tiff(7))), image)
    yield "png_xmp_after_pixels", Encoding(png(stored[5], 8, 2, after=xmp_chunk(5)), image)
    yield "png_xmp_compressed", Encoding(png(stored[6], 8, 2, xmp_chunk(6, True)), image, served=False)
    content = b"Exif\0\0" + tiff(6)
    profile = zlib.compress(f"\nexif\n{len(content):8}\n{content.hex()}\n".encode())
    file = png(stored[6], 8, 2, chunk(b"zTXt", b"Raw profile type exif\0\0" + profile))
    yield "png_raw_profile", Encoding(file, image, served=False)
    file = encode(Image.fromarray(stored[6]), "WEBP", lossless=True, exif=b"Exif\0\0" + tiff(6))
    yield "webp_exif_6", Encoding(file, image, served=False)


def xmp_chunk(orientation, compressed=False):
    content = xmp(orientation)
    content = zlib.compress(content) if compressed else content
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([compressed, 0]) + b"\0\0" + content)


def without_segment(jpeg, marker):
    start = jpeg.index(bytes([0xFF, marker]))
    return jpeg[:start] + jpeg[start + 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0] :]


def jpegs():
    image = photograph()
    for name, options in {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "420": {"subsampling": 2},
        "411": {"subsampling": "4:1:1"},
        "progressive": {"progressive": True},
        "progressive_444": {"progressive": True, "subsampling": 0},
        "optimized": {"optimize": True},
        "restart_markers": {"restart_marker_blocks": 2},
        "rgb": {"keep_rgb": True},
        "comment": {"comment": b"a comment"},
        "profile": {"icc_profile": bytes(150_000)},
        "quality_5": {"quality": 5},
    }.items():
        yield f"jpeg_{name}", Encoding(encode(image, "JPEG", **{"quality": 95, **options}), image, 40)
    grey = Image.fromarray(image).convert("L")
    yield "jpeg_grey", Encoding(encode(grey, "JPEG", quality=95), np.asarray(grey.convert("RGB")), 2)
    yield (
        "jpeg_grey_progressive",
        Encoding(encode(grey, "JPEG", quality=95, progressive=True), np.asarray(grey.convert("RGB")), 2),
    )
    # 4:4:0, which Pillow doesn't write: 4:2:2 with its factors exchanged shows something else, everywhere the same.
    tall = bytearray(encode(photograph(48, 64), "JPEG", quality=95, subsampling=1))
    place = tall.index(b"\xff\xc0") + 11
    assert tall[place] == 0x21
    tall[place] = 0x12
    yield "jpeg_440", Encoding(bytes(tall))
    cmyk = encode(Image.fromarray(image).convert("CMYK"), "JPEG", quality=95)
    yield "jpeg_cmyk", Encoding(cmyk, image, 3)
    place = cmyk.index(b"Adobe") + 11
    yield "jpeg_ycck", Encoding(cmyk[:place] + b"\2" + cmyk[place + 1 :])
    yield "jpeg_cmyk_without_adobe", Encoding(without_segment(cmyk, 0xEE), served=False)
    plain = encode(image, "JPEG", quality=95)
    yield "jpeg_fill_bytes", Encoding(plain[:2] + b"\xff\xff\xff" + plain[2:], image, 4)
    other = Image.fromarray(image[::-1])
    yield "mpo", Encoding(encode(image, "MPO", save_all=True, append_images=[other], quality=95), image, 4)


def others():
    """Animations, formats that a server's graph doesn't read, and what isn't an image at all."""
    image = photograph()
    photo, other = Image.fromarray(image), Image.fromarray(image[::-1])
    frames = {"save_all": True, "append_images": [other]}
    yield "png_animated", Encoding(encode(photo, "PNG", **frames), image)
    yield "png_animated_with_default", Encoding(encode(photo, "PNG", default_image=True, **frames), image)
    nobody = {"served": False}
    palette = photo.quantize(64)
    yield "gif", Encoding(encode(palette, "GIF"), np.asarray(palette.convert("RGB")), **nobody)
    yield "gif_animated", Encoding(encode(photo, "GIF", **frames), image, 20, **nobody)
    yield "gif_transparent", Encoding(encode(palette, "GIF", transparency=3), **nobody)
    yield "webp", Encoding(encode(photo, "WEBP", lossless=True), image, **nobody)
    yield "webp_animated", Encoding(encode(photo, "WEBP", lossless=True, **frames), image, **nobody)
    for mode in ("1", "P", "L", "RGB", "RGBA"):
        yield f"bmp_{mode}", Encoding(encode(photo.convert(mode), "BMP"), **nobody)
    yield "tiff", Encoding(encode(photo, "TIFF"), image, **nobody)
    yield "tiff_lzw_exif_6", Encoding(tiff_file(image, 6), image, **nobody)
    deep = (image[..., 0].astype(np.uint16) << 8) + 77
    grey = np.repeat(image[..., :1], 3, -1)
    yield "tiff_16", Encoding(encode(deep, "TIFF"), grey, **nobody)
    yield "ppm", Encoding(encode(photo, "PPM"), image, **nobody)
    wide = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes()
    yield "pgm_16", Encoding(wide, grey, **nobody)
    yield "jpeg_2000", Encoding(encode(photo, "JPEG2000"), image, **nobody)
    if "AVIF" in Image.OPEN:
        yield "avif", Encoding(encode(photo, "AVIF", quality=90), image, 8, **nobody)
    whole = encode(photo, "PNG")
    yield "png_wrong_length", Encoding(whole[:33] + b"\xff\xff\xff\xff" + whole[37:], image, **nobody)
    for name, file in refused().items():
        yield name, Encoding(file, read=False, served=False)


def tiff_file(upright, orientation):
    stored = Image.fromarray(upright).transpose(TRANSPOSES[orientation])
    return encode(stored, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: orientation})


def refused():
    """Files that nobody may answer."""
    image = photograph()
    jpeg, whole = encode(image, "JPEG"), encode(image, "PNG")
    return {
        "empty": b"",
        "text": b"not a picture",
        "zeros": bytes(1000),
        "jpeg_start_only": jpeg[:3],
        "jpeg_header_only": jpeg[:300],
        "jpeg_half": jpeg[: len(jpeg) // 2],
        "png_signature_only": whole[:8],
        "png_header_only": whole[:33],
        "png_half": whole[: len(whole) // 2],
        "png_damaged_pixels": whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :],
        "postscript": POSTSCRIPT,
        "avif_damaged": damaged_avif(),
        "png_1x1": encode(image[:1, :1], "PNG"),
        "png_1x60000": encode(Image.new("L", (1, 60_000)), "PNG"),
        "png_2x20000": encode(Image.new("RGB", (2, 20_000)), "PNG"),
        "png_20000x2": encode(Image.new("RGB", (20_000, 2)), "PNG"),
        "jpeg_4x401": encode(Image.new("RGB", (4, 401)), "JPEG"),
        "jpeg_1x30": encode(Image.new("RGB", (1, 30)), "JPEG"),
        "png_of_51_million": encode(Image.new("1", (10_200, 5_000)), "PNG"),
    }


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n0.5 setgray 0 0 60 40 rectfill\nshowpage\n%%EOF\n"


def damaged_avif():
    """Return an AVIF that doesn't say which of its items is the image: of this, Pillow raises RuntimeError."""
    if "AVIF" not in Image.OPEN:
        return struct.pack(">I", 24) + b"ftypavif\0\0\0\0avifmif1"
    return encode(photograph(), "AVIF").replace(b"pitm", b"free", 1)


def encodings():
    """All of them by name."""
    return dict([*pngs(), *oriented(), *jpegs(), *others()])
