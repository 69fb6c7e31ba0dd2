"""Read the header of a JPEG or PNG file inside a TensorFlow graph, with operators that TF Serving has.

TensorFlow's decoders neither say how large an image will be nor turn it upright, and misread some files. What the
graph needs to know first is in the header, a few hundred bytes, so nothing is spent on an image that is refused.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_convmixer.images.decoding import MAX_RATIO, MIN_SIDE

UNREADABLE, JPEG, PNG = range(3)

JPEG_SEGMENTS = 1_000
"""Segments that are read of a JPEG: 64 MB of metadata. A file of millions of empty ones must not hold a server up."""
PNG_CHUNKS = 4_096
"""Chunks that are read of a PNG, likewise: 32 MB where chunks have the usual 8 kB."""
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
XMP_KEYWORD, RAW_EXIF_KEYWORD = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
ORIENTATION = 0x0112
"""EXIF 2.3's tag: 1 upright, 2 to 8 mirrored or turned."""
# RE2 reads text; \C is any byte.
XMP_ORIENTATION = r"^\C*?tiff:Orientation(?:=\"|>)([0-9])\C*$"
LATE = r"^\C*(?:tRNS|eXIf|Raw profile type|XML:com\.adobe)\C*$"


class Header(NamedTuple):
    """What a file's header says, as scalar tensors."""

    kind: tf.Tensor
    """int32: JPEG, PNG, or UNREADABLE: another format, damaged, or of a size or an encoding that is refused."""
    height: tf.Tensor
    """int32, as stored: before the image is turned upright."""
    width: tf.Tensor
    transparent: tf.Tensor
    """bool: pixels may be transparent."""
    orientation: tf.Tensor
    """int32: EXIF's 1 to 8; any other number counts as 1."""


def read_header(file: tf.Tensor, max_pixels: int) -> Header:
    """Read the header of an image file: its size, orientation and transparency.

    Example:

        header = read_header(tf.io.read_file("photo.jpg"), max_pixels=50_000_000)
        header.height, header.orientation  # 3024, 6

    Args:
        file: string scalar, a whole file.
        max_pixels: height times width of the largest image that is read.

    Returns: a `Header`. Never fails: what cannot be read or is refused has kind UNREADABLE, namely other formats than
        JPEG and PNG; images under 2 pixels high or wide, over `max_pixels`, or a hundred times longer than wide;
        JPEGs that are neither baseline nor progressive, or of 12 bits; CMYK without Adobe's marker, which may be
        inverted or not; 16-bit RGB PNGs with a transparent color, which Pillow cannot compare exactly;
        and PNGs whose orientation may be in compressed text.

    Source: ITU T.81, annex B; PNG specification, third edition; EXIF 2.3, section 4.6.
    """
    start = _bytes(file, 0, 8)
    is_png = tf.reduce_all(start == list(b"\x89PNG\r\n\x1a\n"))
    is_jpeg = tf.reduce_all(start[:3] == [0xFF, 0xD8, 0xFF])
    branch = tf.where(is_png, PNG, tf.where(is_jpeg, JPEG, UNREADABLE))
    nothing = Header(tf.constant(UNREADABLE), tf.constant(0), tf.constant(0), tf.constant(False), tf.constant(1))
    header = Header(*tf.switch_case(branch, [lambda: nothing, lambda: _read_jpeg(file), lambda: _read_png(file)]))
    short, long = tf.minimum(header.height, header.width), tf.maximum(header.height, header.width)
    # Divided rather than multiplied: the product of two sides may exceed int32.
    allowed = (short >= MIN_SIDE) & (long // MAX_RATIO + tf.sign(long % MAX_RATIO) <= short)
    allowed &= long <= max_pixels // tf.maximum(short, 1)
    return header._replace(kind=tf.where(allowed, header.kind, UNREADABLE))


def _read_jpeg(file):
    """Walk from segment to segment up to the first scan, then look at all of them at once.

    The walk notes places alone, as each operator in the loop runs once for each segment; 0 stands for no segment.
    """
    size = tf.strings.length(file)

    def more(place, ended, places):
        return ~ended & (place + 4 <= size) & (tf.size(places) <= JPEG_SEGMENTS)

    def step(place, ended, places):
        start, marker, length = _segment_head(file, place)
        fill = (start == 0xFF) & (marker == 0xFF)  # a byte of padding
        # TEM, RSTn, SOI and EOI have no length, and don't stand before a scan.
        bare = (marker <= 0x01) | ((marker >= 0xD0) & (marker <= 0xD9))
        broken = (start != 0xFF) | (~fill & (bare | (length < 2)))
        places = tf.concat([places, [tf.where(broken, 0, place)]], 0)
        return place + tf.where(fill, 1, 2 + length), (marker == 0xDA) | broken, places

    state = (tf.constant(2), tf.constant(False), tf.constant([0]))  # the file's start, SOI, is none that is looked for
    _, ended, places = tf.while_loop(more, step, state, (tf.TensorShape(()), tf.TensorShape(()), tf.TensorShape(None)))
    places = tf.ensure_shape(places, (None,))
    _, marker, length = _segment_head(file, places)  # [segments]
    content = tf.strings.substr(file, tf.minimum(places + 4, size), tf.clip_by_value(length - 2, 0, len(XMP)))
    is_frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)
    is_exif = (marker == 0xE1) & (tf.strings.substr(content, 0, len(EXIF)) == EXIF)
    is_xmp = (marker == 0xE1) & (content == XMP)
    adobe = tf.reduce_any((marker == 0xEE) & (tf.strings.substr(content, 0, 5) == b"Adobe"))
    frame = tf.reduce_max(tf.where(is_frame, places, 0))
    exif = tf.gather(places, tf.argmax(is_exif)) * tf.cast(tf.reduce_any(is_exif), tf.int32)  # the first
    xmp = tf.reduce_max(tf.where(is_xmp, places, 0))

    frame_header = _bytes(file, frame, 10)  # marker 2, length 2, bits 1, height 2, width 2, components 1
    components = frame_header[9]
    read = ended & (frame > 0) & (frame_header[1] >= 0xC0) & (frame_header[1] <= 0xC2) & (frame_header[4] == 8)
    read &= (components == 1) | (components == 3) | ((components == 4) & adobe)

    def segment(place, skipped):
        length = tf.reduce_sum(_bytes(file, place + 2, 2) * [256, 1])
        return tf.where(place > 0, _text(file, place + 4 + skipped, length - 2 - skipped), "")

    _, orientation = _orientation((exif > 0) | (xmp > 0), lambda: (segment(exif, len(EXIF)), segment(xmp, len(XMP))))
    return Header(
        tf.where(read & (orientation != UNKNOWN), JPEG, UNREADABLE),
        frame_header[5] * 256 + frame_header[6],
        frame_header[7] * 256 + frame_header[8],
        tf.constant(False),
        orientation,
    )


def _segment_head(file, places):
    """Return of JPEG segments at int32 `places`, of any shape, the first byte, the marker and the length.

    The length, of 16 bits, is without the marker's two bytes. After the file's end bytes are 0.
    """
    four = tf.fill(tf.shape(places), 4)  # `substr` takes places and lengths of one shape
    head = tf.io.decode_raw(tf.strings.substr(file, places, four), tf.int32, False, fixed_length=4)[..., 0]
    first = tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 24), 0xFF)
    marker = tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 16), 0xFF)
    return first, marker, tf.bitwise.bitwise_and(head, 0xFFFF)


def _read_png(file):
    """Read IHDR, then walk from chunk to chunk up to the pixels, or to the end where metadata may stand there."""
    size = tf.strings.length(file)
    header = _bytes(file, 8, 21)  # length 4, "IHDR" 4, width 4, height 4, bits 1, color type 1, three methods, CRC
    width, height = _big_endian(header[8:12]), _big_endian(header[12:16])
    bits, color = header[16], header[17]

    def walk(start, whole):
        def more(place, ended, chunks, *_):
            return ~ended & (place + 12 <= size) & (chunks < PNG_CHUNKS)

        def step(place, ended, chunks, pixels, transparent, exif, xmp, hidden):
            length = _big_endian(_bytes(file, place, 4))
            kind = _text(file, place + 4, 4)
            broken = (length < 0) | (length > size - place - 12)
            keyword = _text(file, place + 8, tf.minimum(tf.maximum(length, 0), 32))
            is_pixels = kind == b"IDAT"
            is_text = (kind == b"tEXt") | (kind == b"zTXt") | (kind == b"iTXt")
            is_xmp = is_text & (tf.strings.substr(keyword, 0, len(XMP_KEYWORD)) == XMP_KEYWORD)
            is_raw = is_text & (tf.strings.substr(keyword, 0, len(RAW_EXIF_KEYWORD)) == RAW_EXIF_KEYWORD)
            flag = tf.strings.substr(keyword, tf.minimum(len(XMP_KEYWORD), tf.strings.length(keyword)), 1)
            plain = (kind == b"tEXt") | ((kind == b"iTXt") & (flag == b"\0"))
            return (
                place + 12 + tf.where(broken, 0, length),
                broken | (kind == b"IEND") | (is_pixels & ~whole),
                chunks + 1,
                tf.where((pixels == 0) & is_pixels, place, pixels),
                transparent | (kind == b"tRNS"),
                tf.where((kind == b"eXIf") & ~broken, place, exif),
                tf.where(is_xmp & plain & ~broken, place, xmp),
                hidden | is_raw | (is_xmp & ~plain),
            )

        none, no = tf.constant(0), tf.constant(False)
        return tf.while_loop(more, step, (start, no, none, none, no, none, none, no))

    walked = walk(tf.constant(33), tf.constant(False))
    # Pixels are thousands of chunks in a large file: these are walked through only where something may come after.
    tail = _text(file, walked[0], size)
    late = tf.strings.regex_full_match(tail, LATE)
    walked = tf.cond(late, lambda: walk(tf.constant(33), tf.constant(True)), lambda: walked)
    _, ended, _, pixels, transparent, exif, xmp, hidden = walked

    def content(place, skipped=0):
        length = _big_endian(_bytes(file, place, 4))
        return tf.where(place > 0, _text(file, place + 8 + skipped, length - skipped), "")

    of_exif, orientation = _orientation((exif > 0) | (xmp > 0), lambda: (content(exif), content(xmp, len(XMP_KEYWORD))))
    read = ended & (pixels > 0) & (_text(file, 12, 4) == b"IHDR") & (orientation != UNKNOWN)
    read &= ~(hidden & (of_exif == ABSENT)) & ~(transparent & (color == 2) & (bits == 16))
    transparent |= (color == 4) | (color == 6)
    return Header(tf.where(read, PNG, UNREADABLE), height, width, transparent, orientation)


ABSENT, UNKNOWN = -1, -2
"""No orientation is given; one is given in a type that is not used for orientations, such as a fraction."""


def _orientation(given, read):
    """Return EXIF's orientation, or ABSENT, and the image's: EXIF's, or where it has none XMP's, or 1.

    `read` returns the contents of EXIF and XMP; it is spared where neither is there: few screenshots, and few images of
    data sets, have them.
    """

    def of_metadata():
        exif, xmp = read()
        of_exif = _exif_orientation(exif)
        in_xmp = tf.strings.regex_full_match(xmp, XMP_ORIENTATION)
        digit = tf.strings.regex_replace(xmp, XMP_ORIENTATION, r"\1")
        of_xmp = tf.argmax(tf.constant([str(number) for number in range(10)]) == digit, output_type=tf.int32)
        return of_exif, tf.where(of_exif == ABSENT, tf.where(in_xmp, of_xmp, 1), of_exif)

    return tf.cond(given, of_metadata, lambda: (tf.constant(ABSENT), tf.constant(1)))


def _exif_orientation(tiff):
    """Return the orientation in a TIFF structure's first directory."""
    start = _text(tiff, 0, 4)
    big = (start == b"MM\0*") | (start == b"MM*\0")
    known = big | (start == b"II*\0") | (start == b"II\0*")

    def number(values):  # [..., bytes]
        values = tf.where(big, values, tf.reverse(values, [-1]))
        powers = [256**place for place in reversed(range(values.shape[-1]))]
        return tf.reduce_sum(values * powers, -1)

    offset = number(_bytes(tiff, 4, 4))
    size = tf.strings.length(tiff)
    known &= (offset >= 8) & (offset <= size - 2)
    offset = tf.where(known, offset, 0)
    fitting = (size - offset - 2) // 12
    count = tf.where(known, tf.minimum(number(_bytes(tiff, offset, 2)), fitting), 0)
    entries = tf.reshape(_bytes(tiff, offset + 2, 12 * count), (-1, 12))  # tag 2, type 2, values 4, value 4
    kind, values = number(entries[:, 2:4]), number(entries[:, 4:8])
    of_16_bits = (kind == 3) | (kind == 8)
    of_32_bits = (kind == 4) | (kind == 9) | (kind == 13)
    stated = tf.where(of_16_bits, number(entries[:, 8:10]), number(entries[:, 8:12]))
    # Pillow takes bytes, text and several values for no orientation; a fraction may be one to it.
    nothing = (values != 1) | (kind == 1) | (kind == 2) | (kind == 7)
    stated = tf.where(of_16_bits | of_32_bits, tf.clip_by_value(stated, 0, 9), UNKNOWN)
    stated = tf.where(nothing, 1, stated)
    orientations = tf.boolean_mask(stated, number(entries[:, :2]) == ORIENTATION)
    return tf.concat([[ABSENT], orientations], 0)[-1]  # of several, the last


def _text(file, start, length):
    """Return up to `length` bytes from `start`, fewer at the file's end, none outside it."""
    start = tf.clip_by_value(start, 0, tf.strings.length(file))
    return tf.strings.substr(file, start, tf.maximum(length, 0))


def _bytes(file, start, length):
    """Return `length` bytes from `start` as int32 `[length]`, 0 after the file's end."""
    # decode_raw requires one byte or more.
    padded = tf.io.decode_raw(_text(file, start, length), tf.uint8, fixed_length=tf.maximum(length, 1))
    return tf.cast(padded[:length], tf.int32)


def _big_endian(values):
    """Return four bytes as a big-endian number; negative where it exceeds int32."""
    return tf.reduce_sum(values * [1 << 24, 1 << 16, 1 << 8, 1])
