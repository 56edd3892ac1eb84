"""Decide in which form a base's matrices are held: as its files hold them, or in 8 or 4 bits as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from petrun.errors import ModelError
from petrun.graph.sites import Sites
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.stacked import stacked_view
from petrun.models.weights import match
from petrun.tensors import TensorReader
from petrun.tensors.quantised import bitsandbytes, groups
from petrun.tensors.quantised.codecs import CODECS, layout_of, quantise
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix
from petrun.tensors.quantised.reader import PackedReader, PackedTensor
from petrun.typing import JsonObject

QUANTISED = "quantization_config"
"""Key of config.json that says in which form the weights are."""
ORIGINAL = "petrun_original"
"""Key of a file's metadata: the digest of the base that `petrun quantize` read."""
_METHODS = ("bitsandbytes", groups.GPTQ, groups.AWQ)


def is_quantised(raw: JsonObject) -> bool:
    """Return whether a config.json says that the weights are in 8 or 4 bits."""
    return bool(raw.get(QUANTISED))


def without_quantisation(raw: JsonObject) -> JsonObject:
    """Return config.json as that of the full-precision model. Raises ModelError for a way of quantising that cannot be read."""
    stated = raw.get(QUANTISED)
    if not stated:
        return raw
    method = _method(stated)
    problem = groups.unsupported(stated) if method in groups.METHODS else None
    if method not in _METHODS:
        problem = ("quant_method", method, ", ".join(_METHODS))
    if problem is not None:
        key, value, supported = problem
        raise ModelError(
            f"{QUANTISED}.{key} = {value!r} is not supported; supported: {supported}",
            hint="Use the float16, bfloat16 or float32 copy of the model: --base-bits 8 or 4 quantises it as it is loaded.",
        )
    return {key: value for key, value in raw.items() if key != QUANTISED}


def _method(stated: object) -> object:
    """Return the tool whose codes a `quantization_config` announces."""
    if not isinstance(stated, dict):
        return None
    method = stated.get("quant_method")
    in_bits = stated.get("load_in_4bit") or stated.get("load_in_8bit")
    return "bitsandbytes" if method is None and in_bits else method


def require_matrices(names: Mapping[str, StoredName], raw: JsonObject, form: str | None) -> None:
    """Raises ModelError where the weights are in codes, or are to be, of a model most of which is experts."""
    if (form is not None or is_quantised(raw)) and any(stored.parts for stored in names.values()):
        asked = f"--base-bits {form}" if form is not None else f"config.json has {QUANTISED}, and this"
        raise ModelError(
            f"{asked}: only single matrices are held in 8 or 4 bits, and the experts, most of this model's weights, are stacks of them",
            hint="Use the model in full precision, without --base-bits.",
        )


def layer_paths(sites: Sites, names: Mapping[str, StoredName]) -> tuple[str, ...]:
    """Return the paths of the linear layers that are quantised: those with a role, so neither heads nor embeddings."""
    weights = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return tuple(path for path in weights if any(fnmatchcase(path, pattern) for pattern in sites.linears.values()))


def quantised_view(
    reader: TensorReader, family: Family, config: FamilyConfig, raw: JsonObject, form: str | None
) -> TensorReader:
    """Return the base's tensors, those of experts as stacks, with those in codes that are, or by `form` (int8, nf4) are to be.

    Raises ModelError and WeightsError.
    """
    names, sites = family.names(config), family.sites(config)
    require_matrices(names, raw, form)
    reader = stacked_view(reader, names, family.prefixes)
    if is_quantised(raw):
        return _ready_made(_packed_view(reader, raw[QUANTISED]), family, names, sites, form)
    if groups.holds_codes(reader):
        raise ModelError(
            f"{reader.path}: holds qweight in the place of weights, and config.json has no {QUANTISED}",
            hint=f"Add {QUANTISED} to config.json: the content of quantize_config.json or quant_config.json, and quant_method gptq or awq.",
        )
    if form is None:
        return reader
    found = match(reader, names, family.prefixes, family.ignored).found
    chosen = {f"{path}.weight" for path in layer_paths(sites, names)}
    packed = {}
    for ours, source in found.items():
        info = reader.info(source.stored)
        if ours in chosen and len(info.shape) == 2:
            rows, columns = reversed(info.shape) if source.transpose else info.shape
            packed[source.stored] = PackedTensor(
                layout=layout_of(form, (rows, columns)),
                dtype=info.dtype,
                load=partial(_quantise, reader, source.stored, source.transpose, form),
                pack=CODECS[form],
                transposed=source.transpose,
            )
    if not packed:
        raise ModelError(
            f"{reader.path}: has no linear layer that --base-bits could quantise",
            hint="Leave --base-bits out, or check that the weights and config.json belong together.",
        )
    return PackedReader(reader, packed)


def _quantise(reader: TensorReader, stored: str, transposed: bool, form: str) -> PackedMatrix:
    values = reader.read(stored)
    return quantise(form, np.ascontiguousarray(values.T) if transposed else values, f"{reader.path}: {stored}")


def _packed_view(reader: TensorReader, stated: JsonObject) -> PackedReader:
    if _method(stated) in groups.METHODS:
        return PackedReader(reader, groups.packed_tensors(reader, stated))
    return PackedReader(reader, bitsandbytes.packed_tensors(reader))


def _ready_made(
    view: PackedReader, family: Family, names: Mapping[str, StoredName], sites: Sites, form: str | None
) -> PackedReader:
    if not view.tensors:
        raise ModelError(
            f"{view.path}: config.json says that the weights are quantised, and no matrix is",
            hint=f"Where they are in full precision, take {QUANTISED} out of config.json.",
        )
    forms = sorted({tensor.layout.form for tensor in view.tensors.values()})
    if form is not None and forms != [form]:
        raise ModelError(
            f"--base-bits {form}: the base is in {' and '.join(forms)} already",
            hint="Leave --base-bits out, or give the full-precision model as --base.",
        )
    found = match(view, names, family.prefixes, family.ignored).found
    trained = [sites.head, *(pattern.removesuffix(".*") for pattern in sites.trained_heads)]
    heads = {s.stored for ours, s in found.items() if any(fnmatchcase(ours, f"{path}.*") for path in trained if path)}
    turned = {source.stored for source in found.values() if source.transpose}
    # A head that trains, or that a delta replaces, is taken as values.
    return view.turned(turned).keeping({source.stored for source in found.values()} - heads)


def outlined_layouts(
    raw: JsonObject, sites: Sites, shapes: Mapping[str, tuple[int, int]], form: str | None
) -> dict[str, PackedLayout]:
    """Return path of a layer -> its layout, of a base of which only config.json is read. `shapes`: (out, in) of every linear layer."""
    stated = raw.get(QUANTISED)
    chosen = [path for path in shapes if any(fnmatchcase(path, pattern) for pattern in sites.linears.values())]
    if isinstance(stated, dict) and stated:
        if _method(stated) in groups.METHODS:
            return {path: groups.layout_of(stated, shapes[path]) for path in chosen}
        form = "int8" if stated.get("load_in_8bit") else "nf4"
    return {} if form is None else {path: layout_of(form, shapes[path]) for path in chosen}


def form_of(reader: TensorReader) -> str:
    """Return the form of a base's matrices, as `int8` or `nf4`; "" for full precision."""
    if not isinstance(reader, PackedReader):
        return ""
    return "+".join(sorted({tensor.layout.form for tensor in reader.tensors.values()}))


def original_of(reader: TensorReader) -> str:
    """Return the digest of the full-precision base that a quantised file was made from; "" where it does not say."""
    return str(reader.metadata.get(ORIGINAL, ""))
