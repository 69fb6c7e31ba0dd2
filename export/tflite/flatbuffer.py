"""Read a .tflite file into objects, add to them, and write them as a file again.

Every rewrite of a file goes through here. The objects are those of the generated classes, named with a T (ModelT):
`model.buffers` holds the bytes of all constants, `graph.tensors` refers to a buffer by its number, and
`operator.inputs` and `operator.outputs` refer to tensors by theirs.
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

LARGEST = 2**31 - 1
"""Bytes of the largest .tflite file: offsets in a flatbuffer are signed 32-bit numbers."""
ALIGNMENT = 16
"""Bytes that constants are aligned to, as TensorFlow's schema.fbs demands (force_align: 16) and kernels rely on."""


def read_model(content: bytes) -> schema.ModelT:
    """Read a .tflite file's bytes, constants of large files included.

    In large files, converters and litert-quantizer write constants behind the flatbuffer, and only their offset and
    size into it. The generated classes ignore such constants. Here they become data like any other, a view into
    `content`, so that packing the model again keeps them.

    Example:
        ```python
        model = read_model(path.read_bytes())
        len(model.subgraphs[0].operators)
        ```

    Raises:
        ValueError: the bytes are not a .tflite file, or end before a constant does.
    """
    if content[4:8] != b"TFL3":
        raise ValueError("the bytes are not a .tflite file: their identifier is not TFL3")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for number, buffer in enumerate(model.buffers):
        # Offsets 0 and 1 are placeholders: the constant lies within the flatbuffer.
        if buffer.offset > 1:
            buffer.data = _outside(content, buffer.offset, buffer.size, f"constant {number}")  # pyright: ignore[reportAttributeAccessIssue]
        buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        for number, operator in enumerate(graph.operators or ()):
            if operator.largeCustomOptionsOffset > 1:
                operator.customOptions = _outside(  # pyright: ignore[reportAttributeAccessIssue]
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
        ```python
        path.write_bytes(write_model(model))
        ```

    Raises:
        ValueError: the file would be larger than `LARGEST`.
    """
    held = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    check_size(held)
    # A builder that grows doubles its memory and copies everything: some room beside the constants is cheaper.
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


def append_constant(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    name: str,
    values: np.ndarray,
    dtype: int = schema.TensorType.FLOAT32,
    quantization: schema.QuantizationParametersT | None = None,
) -> int:
    """Add a constant tensor to a graph, and its data to the model; return the tensor's number.

    `dtype` is a value of `schema.TensorType`, the one that `values` are stored as.
    """
    number = len(graph.tensors)
    tensor = schema.TensorT()
    tensor.name = f"{name}_{number}"  # litert-quantizer requires unique names
    tensor.type, tensor.shape, tensor.quantization = dtype, list(values.shape), quantization
    tensor.buffer = _append_buffer(model, np.frombuffer(values.tobytes(), np.uint8))
    graph.tensors.append(tensor)
    return number


def append_metadata(model: schema.ModelT, name: str, data: np.ndarray) -> None:
    """Add an entry to a model's metadata; `data` is uint8 `[bytes]`."""
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, _append_buffer(model, data)
    model.metadata = [*(model.metadata or []), entry]


def _append_buffer(model, data):
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1


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
