"""Which operators and dtypes a .tflite file is made of, read from its flatbuffer."""

from collections import Counter
from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from .flatbuffer import read_model


def _names(enum):
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


OPERATORS = _names(schema.BuiltinOperator)
DTYPES = _names(schema.TensorType)


@dataclass(frozen=True)
class Operators:
    """Operators with their counts, and the dtypes of all tensors, under the schema's names, as CONV_2D, INT8.

    A custom operator, which LiteRT lacks and an app would have to bring, has its own name.
    """

    counts: dict[str, int]
    custom: frozenset[str]
    dtypes: frozenset[str]


def operator_name(code: schema.OperatorCodeT) -> str:
    """Return an operator code's name, as CONV_2D; CUSTOM for those that LiteRT lacks."""
    return OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def read_operators(content: bytes) -> Operators:
    """Read the operators of a .tflite file's bytes, all subgraphs taken together."""
    model = read_model(content)
    counts, custom = Counter(), set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = operator_name(code)
            if name == "CUSTOM":
                name = code.customCode.decode()
                custom.add(name)
            counts[name] += 1
    dtypes = {DTYPES[tensor.type] for graph in model.subgraphs for tensor in graph.tensors}
    return Operators(dict(sorted(counts.items())), frozenset(custom), frozenset(dtypes))
