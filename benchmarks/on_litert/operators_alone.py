"""What each operator of a .tflite file costs, timed alone: LiteRT's Python interface has no profiler."""

import copy
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer.export.tflite.flatbuffer import read_model, write_model
from keras_convmixer.export.tflite.operators import OPERATORS

ROUNDS = 7


@dataclass
class Cost:
    """Operators of one kind and shape."""

    operator: str
    shape: str
    count: int
    milliseconds: float
    """Of all of them together, one thread."""


def operator_costs(content: bytes) -> list[Cost]:
    """Time each operator of a file in a file of its own, one of each kind and shape; the dearest first.

    Alone, an operator finds its input in the cache, so the sum is below the whole file's time.
    """
    costs = defaultdict(lambda: [0, 0.0])
    for operator, shape, count, alone in operators_alone(content):
        entry = costs[operator, shape]
        entry[0] += count
        entry[1] += count * time_alone(alone)
    rows = [Cost(*key, count, milliseconds) for key, (count, milliseconds) in costs.items()]
    return sorted(rows, key=lambda row: -row.milliseconds)


def operators_alone(content: bytes) -> list[tuple[str, str, int, bytes]]:
    """Return (operator, shape, count, file with it alone) of each kind, shape and options of a file's operators.

    A PAD goes with the convolution after it, into which XNNPACK takes it.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    names = [_name(model, operator) for operator in graph.operators]
    producer = {output: index for index, operator in enumerate(graph.operators) for output in operator.outputs}
    chosen, counts = {}, Counter()
    for index, operator in enumerate(graph.operators):
        users = [i for i, other in enumerate(graph.operators) if operator.outputs[0] in other.inputs]
        if names[index] == "PAD" and any("CONV" in names[user] for user in users):
            continue
        before = producer.get(operator.inputs[0])
        chain = [before, index] if before is not None and names[before] == "PAD" else [index]
        key = (names[index], " ".join(_shapes(graph, chain)), str(vars(operator.builtinOptions or Cost(0, 0, 0, 0))))
        chosen.setdefault(key, chain)
        counts[key] += 1
    return [(*key[:2], counts[key], _alone(model, chain)) for key, chain in chosen.items()]


def _name(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    return OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _shapes(graph, chain):
    first, last = graph.operators[chain[0]], graph.operators[chain[-1]]
    tensors = [first.inputs[0], *last.inputs[1:2], last.outputs[0]]
    return ["x".join(map(str, graph.tensors[tensor].shape[-3:])) for tensor in tensors]


def _alone(model, chain):
    """Return a file of some operators, one after the other; what they take from others becomes an input."""
    graph = model.subgraphs[0]
    operators = [copy.deepcopy(graph.operators[index]) for index in chain]
    used = [tensor for operator in operators for tensor in (*operator.inputs, *operator.outputs) if tensor >= 0]
    numbers = {tensor: number for number, tensor in enumerate(dict.fromkeys(used))}
    made = {tensor for operator in operators for tensor in operator.outputs}
    single = schema.ModelT()
    single.version, single.operatorCodes = model.version, model.operatorCodes
    single.buffers = [schema.BufferT()]
    part = schema.SubGraphT()
    part.tensors, part.inputs = [], []
    for tensor, number in numbers.items():
        described = copy.copy(graph.tensors[tensor])
        data = model.buffers[described.buffer].data
        described.buffer = 0
        if data is not None:
            single.buffers.append(model.buffers[graph.tensors[tensor].buffer])
            described.buffer = len(single.buffers) - 1
        elif tensor not in made:
            part.inputs.append(number)
        part.tensors.append(described)
    for operator in operators:
        operator.inputs = [numbers.get(tensor, -1) for tensor in operator.inputs]
        operator.outputs = [numbers[tensor] for tensor in operator.outputs]
    part.operators, part.outputs = operators, list(operators[-1].outputs)
    single.subgraphs = [part]
    return write_model(single)


def time_alone(content: bytes) -> float:
    """Return the milliseconds of a file on inputs of noise: one thread, the median of some runs."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        values = random.normal(size=tensor["shape"]) * (30 if tensor["dtype"] != np.float32 else 1)
        interpreter.set_tensor(tensor["index"], values.astype(tensor["dtype"]))
    interpreter.invoke()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        interpreter.invoke()
        times.append((time.perf_counter() - started) * 1000)
    return float(np.median(times))
