"""The tensors in which bitsandbytes stores a matrix, as transformers writes and reads them.

    nf4, fp4   X.weight uint8 (N / 2, 1); X.weight.absmax, .quant_map, with double quantisation .nested_absmax and .nested_quant_map;
               X.weight.quant_state.bitsandbytes__nf4, JSON in bytes: quant_type, blocksize, dtype, shape, nested_blocksize, nested_offset
    int8       X.weight int8 (out, in); X.SCB float32 (out,); X.weight_format

Source: bitsandbytes 0.50, functional.py (QuantState.as_dict) and nn/modules.py (Linear8bitLt). No code of a file is executed.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np

from petrun.errors import WeightsError
from petrun.tensors.dtypes import Array
from petrun.tensors.quantised import int8, nf4
from petrun.tensors.quantised.packed import NestedScales, PackedLayout, PackedMatrix
from petrun.tensors.quantised.reader import PackedTensor
from petrun.tensors.reader import TensorReader
from petrun.typing import JsonObject

_STATE = ".quant_state.bitsandbytes__"
_ROWS = 0
"""Value of weight_format for codes row by row. Versions before 0.45 wrote others, in the order of a GPU's tiles; bitsandbytes refuses
them as well."""
_FLOATS = ("float32", "float16", "bfloat16")
_AGAIN = "The file is damaged, or was written by another version of bitsandbytes: fetch it again."


def packed_tensors(reader: TensorReader) -> dict[str, PackedTensor]:
    """Find the matrices of a file that are in bitsandbytes' codes. Raises WeightsError for one that is not complete."""
    found = {}
    for name in reader.names:
        if _STATE in name:
            weight = name.partition(_STATE)[0]
            found[weight] = _four_bits(reader, weight, name)
        elif name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            found[weight] = _eight_bits(reader, weight, name)
    return found


def _require(reader: TensorReader, holds: bool, weight: str, problem: str) -> None:
    if not holds:
        raise WeightsError(f"{reader.path}: {weight}: {problem}", hint=_AGAIN)


def _four_bits(reader: TensorReader, weight: str, state_name: str) -> PackedTensor:
    state = _state(reader, weight, state_name)
    shape, block, dtype = state.get("shape"), state.get("blocksize"), state.get("dtype")
    good = isinstance(shape, list) and len(shape) == 2 and all(isinstance(size, int) and size > 0 for size in shape)
    _require(reader, good, weight, f"its shape is {shape!r}")
    _require(reader, isinstance(block, int) and block > 0, weight, f"its blocksize is {block!r}")
    _require(reader, dtype in _FLOATS, weight, f"its dtype is {dtype!r}")
    assert isinstance(shape, list) and isinstance(block, int)
    has_nested = f"{weight}.nested_absmax" in reader
    leaves = ["absmax", "quant_map", *(["nested_absmax", "nested_quant_map"] if has_nested else [])]
    parts = (weight, *(f"{weight}.{leaf}" for leaf in leaves), state_name)
    missing = [part for part in parts if part not in reader]
    _require(reader, not missing, weight, f"lacks {', '.join(missing)}")
    nested_block = state.get("nested_blocksize") if has_nested else 0
    _require(reader, isinstance(nested_block, int), weight, f"its nested_blocksize is {nested_block!r}")
    assert isinstance(nested_block, int)
    layout = PackedLayout(
        form=state_name.partition(_STATE)[2],
        shape=(shape[0], shape[1]),
        block=block,
        bits=4,
        nested_block=nested_block,
    )
    for leaf, array in (("", "codes"), (".absmax", "scales"), (".nested_absmax", "nested_absmax")):
        if array in layout.arrays:
            (size,), kind = layout.arrays[array]
            info = reader.info(f"{weight}{leaf}")
            _require(
                reader,
                info.elements == size and info.dtype == kind,
                weight,
                f"{weight}{leaf} holds {info.elements} of {info.dtype}, not {size} of {kind}",
            )
    offset = state.get("nested_offset", 0.0)
    _require(reader, isinstance(offset, float | int), weight, f"its nested_offset is {offset!r}")
    return PackedTensor(
        layout=layout, dtype=str(dtype), load=partial(_load_four, reader, weight, layout, float(offset)), parts=parts
    )


def _state(reader: TensorReader, weight: str, name: str) -> JsonObject:
    try:
        state = json.loads(reader.read_raw(name).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{reader.path}: {name} is not JSON ({error})", hint=_AGAIN) from error
    _require(reader, isinstance(state, dict), weight, f"{name} is not a JSON object")
    found: JsonObject = state
    return found


def _load_four(reader: TensorReader, weight: str, layout: PackedLayout, offset: float) -> PackedMatrix:
    nested = None
    if layout.nested_block:
        nested = NestedScales(
            table=reader.read(f"{weight}.nested_quant_map"),
            absmax=reader.read(f"{weight}.nested_absmax"),
            offset=offset,
            block=layout.nested_block,
        )
    return PackedMatrix(
        form=layout.form,
        shape=layout.shape,
        codes=reader.read(weight).reshape(-1),
        table=reader.read(f"{weight}.quant_map"),
        block=layout.block,
        scales=reader.read(f"{weight}.absmax"),
        nested=nested,
    )


def _eight_bits(reader: TensorReader, weight: str, scales: str) -> PackedTensor:
    _require(reader, weight in reader, weight, f"is missing, and {scales} is there")
    info, rows = reader.info(weight), reader.info(scales)
    good = info.dtype == "int8" and len(info.shape) == 2 and rows.dtype == "float32" and rows.elements == info.shape[0]
    _require(reader, good, weight, f"is {info.dtype} {list(info.shape)} with {rows.elements} scales of {rows.dtype}")
    order = f"{weight.removesuffix('.weight')}.weight_format"
    parts = (weight, scales, *([order] if order in reader else []))
    if order in reader:
        found = reader.read(order).reshape(-1).tolist()
        _require(reader, found == [_ROWS], weight, f"{order} is {found}, not [{_ROWS}]: its codes are in another order")
    layout = PackedLayout(
        form="int8", shape=(info.shape[0], info.shape[1]), block=info.shape[1], bits=8, unit=int8.UNIT
    )

    def load() -> PackedMatrix:
        return int8.packed(reader.read(weight), reader.read(scales))

    return PackedTensor(layout=layout, dtype="float32", load=load, parts=parts)


def stored_shapes(weight: str, layout: PackedLayout) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the tensors that `stored_arrays` gives: name -> (shape, dtype)."""
    arrays = layout.arrays
    if layout.form == "int8":
        path = weight.removesuffix(".weight")
        return {
            weight: (layout.shape, "int8"),
            f"{path}.SCB": ((layout.shape[0],), "float32"),
            f"{path}.weight_format": ((), "uint8"),
        }
    return {
        weight: ((*arrays["codes"][0], 1), "uint8"),
        f"{weight}.absmax": (arrays["scales"][0], "uint8"),
        f"{weight}.quant_map": ((16,), "float32"),
        f"{weight}.nested_absmax": (arrays["nested_absmax"][0], "float32"),
        f"{weight}.nested_quant_map": ((256,), "float32"),
    }


def stored_arrays(weight: str, matrix: PackedMatrix, dtype: str) -> dict[str, Array]:
    """Return the tensors that hold a matrix in int8, or in nf4 with double quantisation, by name. `dtype`: before it was quantised."""
    if matrix.form == "int8":
        path = weight.removesuffix(".weight")
        return {
            weight: matrix.codes.reshape(matrix.shape),
            f"{path}.SCB": matrix.scales,
            f"{path}.weight_format": np.zeros((), np.uint8),
        }
    assert matrix.form == "nf4" and matrix.nested is not None, matrix.form
    state = {
        "quant_type": "nf4",
        "blocksize": matrix.block,
        "dtype": dtype,
        "shape": list(matrix.shape),
        "nested_blocksize": matrix.nested.block,
        "nested_dtype": "float32",
        "nested_offset": matrix.nested.offset,
    }
    return {
        weight: matrix.codes.reshape(-1, 1),
        f"{weight}.absmax": matrix.scales,
        f"{weight}.quant_map": nf4.TABLE,
        f"{weight}.nested_absmax": matrix.nested.absmax,
        f"{weight}.nested_quant_map": matrix.nested.table,
        f"{weight}{_STATE}nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
