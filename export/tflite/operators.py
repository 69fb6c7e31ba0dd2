"""The operators and dtypes of a .tflite file, read from its flatbuffer."""

from collections import Counter
from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from .flatbuffer import read_model


def _names_by_value(enum):
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


OPERATORS = _names_by_value(schema.BuiltinOperator)
DTYPES = _names_by_value(schema.TensorType)


@dataclass(frozen=True)
class Operators:
    """Operators with their counts, and the dtypes of all tensors, by the schema's names, such as CONV_2D and INT8.

    A custom operator, which LiteRT lacks and an app would have to bring, has its own name.
    """

    counts: dict[str, int]
    custom: frozenset[str]
    dtypes: frozenset[str]


def code_name(code: schema.OperatorCodeT) -> str:
    """Return an operator code's name, such as CONV_2D; CUSTOM for operators that LiteRT lacks."""
    # Operators up to number 126 are in both fields, later ones in builtinCode alone, with 127 in the older one.
    return OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return the name of an operator of a model's graph, such as CONV_2D."""
    return code_name(model.operatorCodes[operator.opcodeIndex])


def read_operators(content: bytes) -> Operators:
    """Read the operators of a .tflite file's bytes, all subgraphs taken together."""
    model = read_model(content)
    counts, custom = Counter(), set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operator_name(model, operator)
            if name == "CUSTOM":
                name = model.operatorCodes[operator.opcodeIndex].customCode.decode()  # pyright: ignore[reportAttributeAccessIssue]
                custom.add(name)
            counts[name] += 1
    dtypes = {DTYPES[tensor.type] for graph in model.subgraphs for tensor in graph.tensors}
    return Operators(dict(sorted(counts.items())), frozenset(custom), frozenset(dtypes))
