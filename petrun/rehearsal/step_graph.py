"""The compiled training step of one rank as a graph of operators, read from MindSpore's MindIR.

MindIR is taken after MindSpore's parallel passes, differentiation and optimisation, before kernels are chosen. It keeps what its text form
leaves out: every constant bit for bit, the shape and type of every result, and the layer that each operator comes from. All functions are
inlined by then; a graph that still calls one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from petrun.errors import SetupError
from petrun.tensors import Array
from petrun.typing import Cell

BFLOAT16 = "bfloat16"
"""numpy has no such type: values are kept as float32, rounded to bfloat16's 8 bits."""
_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    12: "uint32", 13: "uint64", 16: BFLOAT16, 17: "float64",
}  # fmt: skip
"""TensorProto.DataType -> dtype."""
NO_LAYER = "the step"
"""The layer of an operator of which MindSpore names no cell."""
_OUTER = ("loss", "net", "pipeline")
"""Cells around the net, which the names of parameters leave out."""


class Monad:
    """Stands for the order of side effects, which the order of the nodes already keeps."""


MONAD = Monad()


@dataclass(frozen=True, slots=True)
class TensorType:
    """Holds the type and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Holds one operator of the graph."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """Names of nodes, parameters, inputs or constants."""
    attributes: Mapping[str, object] = field(repr=False)
    scope: str
    """The cells that it comes from, as MindSpore writes them."""
    results: tuple[TensorType, ...]
    """What it returns: several of a tuple; () where that is no tensor."""

    @property
    def layer(self) -> str:
        """The path of its cell in the net, as parameters are named: `layers.0.attn.q`."""
        cells = [part.partition("-")[0] for part in self.scope.split("/")[:-1] if "-" in part]
        return ".".join(cell for cell in cells if cell not in _OUTER) or NO_LAYER


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """Holds the graph of one rank's step."""

    inputs: tuple[str, ...]
    parameters: Mapping[str, str]
    """Name in the graph -> the parameter's own name."""
    held: Mapping[str, TensorType]
    """The parameter's own name -> its shard's type."""
    constants: Mapping[str, object] = field(repr=False)
    """Name -> array, number, text, tuple of them, None or MONAD."""
    nodes: tuple[Node, ...] = field(repr=False)
    """In an order in which each stands behind those that it needs."""
    output: str


def export_step(step: Cell, known: Collection[str] = ()) -> bytes:
    """Return the compiled graph of a step as MindIR. `known`: the names of its graphs that were compiled before."""
    from mindspore.common import api

    executor = api._cell_graph_executor
    (compiled,) = set(step.compile_cache) - set(known)
    return bytes(executor._get_func_graph_proto(step, compiled, "mind_ir"))


def read_graph(content: bytes) -> StepGraph:
    """Read MindIR. Raises SetupError where it holds what is not read here."""
    # Imported here because the import takes a second.
    from mindspore.train import mind_ir_pb2

    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(content)
    if len(model.functions):
        raise SetupError(
            f"the compiled graph calls {len(model.functions)} functions, and only a flat graph is computed",
            hint="This is a finding about MindSpore: please report the command.",
        )
    graph = model.graph
    kinds = mind_ir_pb2.AttributeProto.AttributeType
    primitives = {p.name: (p.op_type, _attributes(p.attribute, kinds)) for p in model.primitives}
    constants: dict[str, object] = {}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _value(node.attribute[0], kinds)
        else:
            nodes.append(_node(node, primitives, kinds))
    return StepGraph(
        inputs=tuple(item.name for item in graph.input),
        parameters={p.name: p.ref_key or p.name.rpartition(":")[2] for p in graph.parameter},
        held={p.ref_key or p.name.rpartition(":")[2]: _tensor_type(p) for p in graph.parameter},
        constants=constants,
        nodes=tuple(nodes),
        output=graph.output[0].name,
    )


def _node(node: Any, primitives: Mapping[str, tuple[str, dict[str, object]]], kinds: Any) -> Node:
    reference = node.op_type.removeprefix("REF::")
    operator, attributes = primitives.get(reference, (reference, {}))
    own = {a.name: a for a in node.attribute}
    results = own.pop("shape", None)
    return Node(
        name=node.output[0],
        operator=operator.removeprefix("PrimFunc_"),
        inputs=tuple(node.input),
        attributes={**attributes, **_attributes(own.values(), kinds)},
        scope=node.domain,
        results=tuple(_results(results)) if results is not None else (),
    )


def _results(attribute: Any) -> Iterable[TensorType]:
    """Yield the types of all tensors that a node returns, also of nested tuples."""
    yield from map(_tensor_type, attribute.tensors)
    for value in attribute.values:
        yield from _results(value)


def _tensor_type(tensor: Any) -> TensorType:
    return TensorType(_TYPES.get(tensor.data_type, str(tensor.data_type)), tuple(tensor.dims))


def _attributes(found: Iterable[Any], kinds: Any) -> dict[str, object]:
    return {a.name: _value(a, kinds) for a in found}


def _value(attribute: Any, kinds: Any) -> object:
    """Return the value of a constant or an attribute."""
    kind = kinds.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return tuple(_value(value, kinds) for value in attribute.values)
    if kind == "TENSORS":
        return tensor_value(attribute.tensors[0])
    if kind == "STRING":
        return _text(attribute.s)
    if kind in ("UMONAD", "IOMONAD"):
        return MONAD
    if kind in ("NONE", "TYPE_NULL"):
        return None
    if kind in ("FLOAT", "DOUBLE"):
        return _number(attribute, "f" if kind == "FLOAT" else "d")
    if kind == "BOOL":
        return bool(_number(attribute, "i"))
    if re.fullmatch(r"U?INT\d+", kind):
        return int(_number(attribute, "i"))
    # A type, such as the one that a Cast of an older MindSpore names: nothing that is computed here reads it.
    return f"{kind}"


def _number(attribute: Any, name: str) -> float:
    """Return a number; within a tuple MindSpore keeps it in the field for several."""
    several = {"f": "floats", "i": "ints", "d": "doubles"}[name]
    found = getattr(attribute, several)
    return float(found[0]) if len(found) and name != "i" else found[0] if len(found) else getattr(attribute, name)


def _text(content: bytes | str) -> str:
    return content.decode() if isinstance(content, bytes) else content


def tensor_value(tensor: Any) -> Array | TensorType:
    """Return a constant tensor; one of bfloat16 as float32. An attribute may name a type alone."""
    kind = _tensor_type(tensor)
    if not tensor.raw_data and 0 not in kind.shape:
        return kind
    if kind.dtype == BFLOAT16:
        wide = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(kind.shape)
    return np.frombuffer(tensor.raw_data, kind.dtype).reshape(kind.shape)
