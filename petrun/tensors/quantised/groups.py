"""The tensors in which GPTQ's and AWQ's tools store a matrix: integers of 4 or 8 bits, with a scale and a zero for every group of inputs.

    w[o, i] = (q[o, i] - zero[g, o]) * scale[g, o],  g the group of input i

    GPTQ    X.qweight int32 (in / n, out), n = 32 / bits codes of consecutive inputs in a number, the first in the lowest bits;
            X.qzeros int32 (groups, out / n), of outputs in the same way; X.scales (groups, out); X.g_idx int32 (in,), group of an input.
            checkpoint_format gptq: the zero is stored less 1, modulo 2^bits; gptq_v2: as it is
    AWQ     X.qweight int32 (in, out / 8), 8 codes of outputs in a number, in the order 0 2 4 6 1 3 5 7; X.qzeros (groups, out / 8) in the
            same way; X.scales (groups, out)

Source: Frantar et al., "GPTQ", arXiv 2210.17323; Lin et al., "AWQ", arXiv 2306.00978; files of AutoGPTQ 0.7, GPTQModel 5 and AutoAWQ 0.2
(version gemm). Values are float32: those tools round each to float16.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from petrun.errors import WeightsError
from petrun.tensors.dtypes import Array
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix, two_in_a_byte
from petrun.tensors.quantised.reader import PackedTensor
from petrun.tensors.reader import TensorReader
from petrun.typing import JsonObject

METHODS = GPTQ, AWQ = "gptq", "awq"
_CODES, _ZEROS, _SCALES, _GROUPS = "qweight", "qzeros", "scales", "g_idx"
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Place in a number of the code of each of eight consecutive outputs."""
_WORD = 32


def zeros_are_less_one(stated: JsonObject) -> bool:
    """Return whether files of a `quantization_config` of GPTQ store zeros less 1."""
    return _format(stated) != "gptq_v2"


def _format(stated: JsonObject) -> object:
    return stated.get("checkpoint_format") or stated.get("format") or "gptq"


def unsupported(stated: JsonObject) -> tuple[str, object, str] | None:
    """Return (key, value, what is supported) of a `quantization_config` of GPTQ or AWQ that stands for another layout; None: it is read."""
    bits, size = stated.get("bits"), stated.get("group_size")
    if not isinstance(size, int) or size == 0 or size < -1:
        return "group_size", size, "a number of inputs, or -1 for all of them"
    if stated.get("quant_method") == AWQ:
        version = stated.get("version", "gemm")
        if str(version).lower() != "gemm":
            return "version", version, "gemm"
        return None if bits == 4 else ("bits", bits, "4")
    if _format(stated) not in ("gptq", "gptq_v2"):
        return "checkpoint_format", _format(stated), "gptq, gptq_v2"
    if stated.get("pack_dtype", "int32") != "int32":
        return "pack_dtype", stated["pack_dtype"], "int32"
    return None if bits in (4, 8) else ("bits", bits, "4, 8")


def layout_of(stated: JsonObject, shape: tuple[int, int]) -> PackedLayout:
    """Return the layout that a `quantization_config` gives a matrix (out, in) of which no tensor is read."""
    method, bits, size = str(stated["quant_method"]), int(stated["bits"]), int(stated["group_size"])
    ordered = bool(stated.get("desc_act")) and 0 < size < shape[1]
    return _layout(method, shape, size if size > 0 else shape[1], bits, ordered)


def _layout(method: str, shape: tuple[int, int], block: int, bits: int, ordered: bool) -> PackedLayout:
    return PackedLayout(
        form=f"{method}-{bits}", shape=shape, block=block, bits=bits, has_zeros=True, is_ordered=ordered
    )


def holds_codes(reader: TensorReader) -> bool:
    """Return whether a file holds matrices in GPTQ's or AWQ's codes."""
    return any(name.rpartition(".")[2] == _CODES for name in reader.names)


def packed_tensors(reader: TensorReader, stated: JsonObject) -> dict[str, PackedTensor]:
    """Find the matrices of a file that are in GPTQ's or AWQ's codes. `stated`: the `quantization_config`.

    Raises WeightsError for one that is not complete, or whose groups do not divide its inputs evenly.
    """
    method, found = str(stated["quant_method"]), {}
    for name in reader.names:
        path, _, leaf = name.rpartition(".")
        if leaf == _CODES:
            found[f"{path}.weight"] = _tensor(reader, path, method, zeros_are_less_one(stated))
    return found


def _require(reader: TensorReader, path: str, holds: bool, problem: str) -> None:
    if not holds:
        raise WeightsError(
            f"{reader.path}: {path}: {problem}",
            hint="The file is damaged, or quantization_config in config.json is another model's: fetch both again.",
        )


def _tensor(reader: TensorReader, path: str, method: str, less_one: bool) -> PackedTensor:
    leaves = [_CODES, _ZEROS, _SCALES]
    missing = [leaf for leaf in leaves if f"{path}.{leaf}" not in reader]
    _require(reader, path, not missing, f"lacks {', '.join(missing)}")
    codes, zeros, scales = (reader.info(f"{path}.{leaf}") for leaf in leaves)
    flat = all(len(info.shape) == 2 and info.elements for info in (codes, zeros, scales))
    _require(
        reader,
        path,
        flat and codes.dtype == zeros.dtype == "int32",
        "qweight, qzeros and scales are no matrices of int32 and floats",
    )
    groups, out = scales.shape
    words = codes.shape[1] if method == AWQ else zeros.shape[1]
    bits = _WORD * words // out
    _require(
        reader,
        path,
        bits in ((4,) if method == AWQ else (4, 8)) and codes.shape[1] == (words if method == AWQ else out),
        f"qweight {list(codes.shape)} and scales {list(scales.shape)} do not belong together as {method}",
    )
    wide = codes.shape[0] if method == AWQ else codes.shape[0] * _WORD // bits
    block = wide // groups
    _require(
        reader,
        path,
        zeros.shape == (groups, out * bits // _WORD) and block * groups == wide,
        f"qzeros {list(zeros.shape)} and scales {list(scales.shape)} do not belong together as {method} of {wide} inputs",
    )
    order = _order(reader, path, wide, block) if f"{path}.{_GROUPS}" in reader else None
    layout = _layout(method, (out, wide), block, bits, order is not None)
    parts = [f"{path}.{leaf}" for leaf in (*leaves, _GROUPS) if f"{path}.{leaf}" in reader]
    return PackedTensor(
        layout=layout,
        dtype=scales.dtype,
        load=partial(_load, reader, path, layout, order, less_one),
        parts=tuple(parts),
    )


def _order(reader: TensorReader, path: str, wide: int, block: int) -> Array | None:
    """Return the inputs sorted by their group, int32 (in,); None where they stand so."""
    groups = reader.read(f"{path}.{_GROUPS}").reshape(-1)
    even = groups.size == wide and np.array_equal(
        np.bincount(groups.clip(0), minlength=1), np.full(wide // block, block)
    )
    _require(
        reader, path, bool(even and groups.min() >= 0), f"g_idx does not put {block} of {wide} inputs in each group"
    )
    order = np.argsort(groups, kind="stable").astype(np.int32)
    return None if np.array_equal(order, np.arange(wide)) else order


def _load(reader: TensorReader, path: str, layout: PackedLayout, order: Array | None, less_one: bool) -> PackedMatrix:
    bits = layout.bits
    words, zero_words = reader.read(f"{path}.{_CODES}"), reader.read(f"{path}.{_ZEROS}")
    if layout.form.startswith(AWQ):
        codes, zeros = (_unpacked(w, bits)[..., _AWQ_PLACES].reshape(len(w), -1) for w in (words, zero_words))
    else:
        codes = _unpacked(words, bits).swapaxes(1, 2).reshape(layout.shape[1], layout.shape[0])
        zeros = _unpacked(zero_words, bits).reshape(len(zero_words), -1)
        if less_one:
            # In uint8, so that the zero 0, which is stored as the largest code, comes back.
            zeros = (zeros + np.uint8(1)) & np.uint8(2**bits - 1)
    rows = np.ascontiguousarray(codes.T if order is None else codes[order].T)
    return PackedMatrix(
        form=layout.form,
        shape=layout.shape,
        codes=two_in_a_byte(rows) if bits == 4 else rows.reshape(-1),
        table=np.arange(2**bits, dtype=np.float32),
        block=layout.block,
        scales=np.ascontiguousarray(reader.read(f"{path}.{_SCALES}").T, np.float32).reshape(-1),
        zeros=np.ascontiguousarray(zeros.T, np.float32).reshape(-1),
        order=order,
    )


def _unpacked(words: Array, bits: int) -> Array:
    """Return the codes in int32 numbers (a, b), uint8 (a, b, 32 / bits), the lowest bits first."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8).reshape(*words.shape, 4)
    if bits == 8:
        return octets
    halves = np.empty((*words.shape, 8), np.uint8)
    halves[..., 0::2], halves[..., 1::2] = octets & 15, octets >> 4
    return halves
