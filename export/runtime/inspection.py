"""Inspect a .tflite file: operators and what runs them, tensors, labels, multiplications. TensorFlow is not needed."""

from __future__ import annotations

import importlib.metadata
import io
import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_convmixer.files.labels import NAME as LABELS
from keras_convmixer.files.regular_files import read_file

from ..engines.edge_tpu import EDGE_TPU
from ..engines.engine import Support, support_of
from ..engines.gpu import GPU
from ..engines.nodes import read_nodes
from ..engines.npus import MEDIATEK, QUALCOMM
from ..engines.xnnpack import XNNPACK
from ..tflite.flatbuffer import LARGEST
from ..tflite.operators import read_operators
from .interpreter import decoding_names, open_interpreter

LABELS_LIMIT = 2**22
"""Most bytes of labels that are read; a thousand labels have about 20,000."""


@dataclass(frozen=True)
class Inspection:
    """The contents of a .tflite file, as `inspect` returns them.

    Example:
        ```python
        from keras_convmixer.export import inspect

        found = inspect("bundle/litert/int8.tflite")
        found.inputs[0]["shape"]  # [1, 8, 8, 3]
        ```
    """

    size: int
    """Bytes of the file."""
    inputs: tuple[dict, ...]
    """Each with name, shape, dtype, and quantization: scale and zero_point, or None."""
    outputs: tuple[dict, ...]
    operators: dict[str, int]
    """Number of operators by name, such as CONV_2D."""
    delegated: dict[str, int]
    """Those of them that XNNPACK runs on this machine; LiteRT's own kernels run the others."""
    engines: dict[str, Support]
    """How many operators each engine takes, by its name: "XNNPACK", "GPU", "Edge TPU", "Qualcomm", "MediaTek"."""
    multiplications: dict[str, int]
    """Multiplications for one image, by operator: convolutions and dense layers, which are nearly all."""
    weights: dict[str, int]
    """Bytes of constants, by dtype."""
    labels: tuple[str, ...]
    """The labels in the file's metadata; empty if it has none."""


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read what a .tflite file holds.

    Example:
        ```python
        from keras_convmixer.export import inspect

        found = inspect("bundle/litert/float32.tflite")
        print(found.operators, sum(found.multiplications.values()), found.labels)
        ```

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .tflite file that LiteRT can run, or it is damaged.
    """
    path = Path(path)
    content = read_file(path, LARGEST, "a .tflite file")
    with decoding_names(str(path)):
        return _inspect(content, path)


def _inspect(content, path):
    interpreter = open_interpreter(content, str(path), threads=1)
    nodes = interpreter._get_ops_details()
    shapes = {tensor["index"]: tuple(tensor["shape"]) for tensor in interpreter.get_tensor_details()}
    # XNNPACK adds DELEGATE nodes to the operators that it replaces.
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    # Every tensor that no operator computes, and that is not an input, is a constant.
    made = {int(tensor) for node in operators for tensor in node["outputs"]}
    made |= {int(tensor["index"]) for tensor in interpreter.get_input_details()}
    delegated = _delegated(nodes, operators)
    return Inspection(
        size=len(content),
        inputs=tuple(map(_described, interpreter.get_input_details())),
        outputs=tuple(map(_described, interpreter.get_output_details())),
        operators=read_operators(content).counts,
        delegated=delegated,
        engines=_engines(content, delegated),
        multiplications=_multiplications(operators, shapes),
        weights=_weights(interpreter.get_tensor_details(), made),
        labels=_labels(content),
    )


def _described(tensor):
    scale, zero_point = tensor["quantization"]
    return {
        "name": tensor["name"],
        "shape": [int(side) for side in tensor["shape"]],
        "dtype": np.dtype(tensor["dtype"]).name,
        "quantization": {"scale": float(scale), "zero_point": int(zero_point)} if scale else None,
    }


def _delegated(nodes, operators):
    """Count the operators that delegates run, by name.

    LiteRT says which tensors a delegate takes and returns, and not which operators it replaces: those are found by
    walking from its outputs back to its inputs.
    """
    makers = {int(tensor): node for node in operators for tensor in node["outputs"]}
    taken = {}
    for delegate in (node for node in nodes if node["op_name"] == "DELEGATE"):
        given = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            node = makers.get(tensor)
            if tensor in given or node is None or node["index"] in taken:
                continue
            taken[node["index"]] = node["op_name"]
            wanted.extend(int(source) for source in node["inputs"])
    return dict(sorted(Counter(taken.values()).items()))


def _engines(content, delegated):
    nodes = read_nodes(content)
    found = {engine.name: support_of(engine, nodes) for engine in (GPU, EDGE_TPU, QUALCOMM, MEDIATEK)}
    # What XNNPACK takes was seen; its list has the reasons for the rest.
    reasons, counts = support_of(XNNPACK, nodes).refused, Counter(node.name for node in nodes)
    left = sorted(name for name, count in counts.items() if count > delegated.get(name, 0))
    refused = {name: reasons.get(name, "for a reason that its list lacks") for name in left}
    run = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    return {XNNPACK.name: Support(delegated, refused, run, "run"), **found}


def _multiplications(operators, shapes):
    """Count multiplications by operator: the size of the output times the weights that each of its values takes.

    Weights are `[out, height, width, in]` (CONV_2D), `[1, height, width, channels]` (DEPTHWISE_CONV_2D) or `[out, in]`.
    """
    counts = Counter()
    for node in operators:
        if node["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        weights, outputs = shapes[int(node["inputs"][1])], np.prod(shapes[int(node["outputs"][0])])
        # A depthwise output value takes its window of one channel; any other takes all input channels.
        each = weights[1:3] if node["op_name"] == "DEPTHWISE_CONV_2D" else weights[1:]
        counts[node["op_name"]] += int(outputs * np.prod(each))
    return dict(sorted(counts.items()))


def _weights(tensors, made):
    sizes = Counter()
    for tensor in tensors:
        if tensor["index"] not in made:
            dtype = np.dtype(tensor["dtype"])
            sizes[dtype.name] += int(np.prod(tensor["shape"])) * dtype.itemsize
    return dict(sorted(sizes.items()))


def _labels(content):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(LABELS) as file:
            return tuple(file.read(LABELS_LIMIT).decode().splitlines())
    except UnicodeDecodeError:
        raise
    except Exception:  # no archive, or damaged or encrypted labels: zipfile raises a dozen types
        return ()
