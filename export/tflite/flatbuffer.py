"""Read a .tflite file into objects and write them as a file again; every rewrite of a file goes through here."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

LARGEST = 2**31 - 1
"""Bytes of the largest .tflite file: offsets in a flatbuffer are signed 32-bit numbers."""
ALIGNMENT = 16
"""Of constants in a file, as schema.fbs demands and kernels rely on."""


def read_model(content: bytes) -> schema.ModelT:
    """Read a .tflite file's bytes, with what large files keep behind the flatbuffer.

    In large files, converters and litert-quantizer write constants behind the flatbuffer, and in it only their offset
    and size. The generated classes do not read these. Here they become data like any other, a view into `content`, so
    that packing the model again keeps them.

    Example:
        model = read_model(path.read_bytes())
        len(model.subgraphs[0].operators)

    Raises:
        ValueError: the bytes are not a .tflite file, or end before a constant does.
    """
    if content[4:8] != b"TFL3":
        raise ValueError("the bytes are not a .tflite file: their identifier is not TFL3")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for number, buffer in enumerate(model.buffers):
        # Offsets 0 and 1 are placeholders.
        if buffer.offset > 1:
            buffer.data = _outside(content, buffer.offset, buffer.size, f"constant {number}")
        buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        for number, operator in enumerate(graph.operators or ()):
            if operator.largeCustomOptionsOffset > 1:
                operator.customOptions = _outside(
                    content, operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize, f"operator {number}"
                )
            operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0
    return model


def _outside(content, offset, size, owner):
    if offset + size > len(content):
        raise ValueError(
            f"the .tflite file is cut short: {owner} ends at byte {offset + size:,} of {len(content):,}; convert or "
            "copy it again"
        )
    return np.frombuffer(content, np.uint8, size, offset)


def write_model(model: schema.ModelT) -> bytes:
    """Pack a model as a .tflite file, all constants within the flatbuffer and aligned.

    Example:
        path.write_bytes(write_model(model))

    Raises:
        ValueError: the file would be larger than `LARGEST`.
    """
    held = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    check_size(held)
    # Growing doubles the memory and copies: some room for what is not a constant is cheaper.
    builder = flatbuffers.Builder(min(held + held // 64 + 2**20, LARGEST))
    aligned = schema.ModelT()
    vars(aligned).update(vars(model))
    aligned.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    try:
        builder.Finish(aligned.Pack(builder), file_identifier=b"TFL3")
    except flatbuffers.builder.BuilderSizeError:
        check_size(LARGEST + 1)
    content = bytes(memoryview(builder.Bytes)[builder.head :])
    check_size(len(content))
    return content


def check_size(size: int) -> None:
    """Raise ValueError if a .tflite file cannot hold `size` bytes."""
    if size > LARGEST:
        raise ValueError(
            f"a .tflite file holds at most {LARGEST / 1e6:,.0f} MB, and this one would need {size / 1e6:,.0f}: take a "
            "format with smaller weights, or a model with fewer parameters"
        )


class _AlignedBuffer(schema.BufferT):
    """A constant; the generated class packs it aligned to 4 bytes, whatever the schema says."""

    def Pack(self, builder):
        data = None
        if self.data is not None:
            held = np.asarray(self.data, np.uint8)
            builder.StartVector(1, held.size, ALIGNMENT)
            builder.head -= held.size
            builder.Bytes[builder.head : builder.head + held.size] = memoryview(np.ascontiguousarray(held))
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)
