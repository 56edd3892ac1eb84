"""Write a base with its linear layers in 8 or 4 bits, as a folder that petrun and transformers with bitsandbytes read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from petrun import console
from petrun.checkpoint.hf_config import write_companions
from petrun.checkpoint.merge_checks import check_room
from petrun.inference.stored_base import StoredBase
from petrun.models.base import StoredName
from petrun.models.quantised import ORIGINAL, QUANTISED
from petrun.tensors import Array, TensorEntry, TensorInfo, array_entries, atomic_folder, write_safetensors_folder
from petrun.tensors.atomic import refuse_occupied
from petrun.tensors.quantised.bitsandbytes import stored_arrays
from petrun.tensors.quantised.codecs import quantise
from petrun.tensors.quantised.packed import PackedMatrix
from petrun.tensors.quantised.reader import PackedReader, PackedTensor
from petrun.tensors.sharded.ranks import root_of
from petrun.typing import JsonObject

_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class QuantisedFolder:
    """The result of writing a quantised base."""

    path: Path
    form: str
    layers: int
    """Matrices that are in codes."""
    tensors: int
    """Tensors of the base."""
    bytes_before: int
    bytes_after: int
    error: float
    """||W - Q|| / ||W|| over all matrices."""
    worst: tuple[str, float]
    """The matrix with the largest error, and that."""


@dataclass(frozen=True, kw_only=True)
class _Error:
    difference: float
    """Sums of squares."""
    whole: float

    @property
    def ratio(self) -> float:
        return math.sqrt(self.difference / self.whole) if self.whole else 0.0


@console.working("quantising")
def write_quantised(base: StoredBase, out: Path, max_shard_bytes: int) -> QuantisedFolder:
    """Write the folder. `base`: with the form that it is to have. Raises WeightsError, ModelError, OutputError."""
    refuse_occupied(out)
    reader = base.reader()
    assert isinstance(reader, PackedReader) and base.quantisation is not None
    original = replace(base, quantisation=None).digest()
    entries: list[TensorEntry] = []
    errors: dict[str, _Error] = {}
    for name in reader.names:
        tensor = reader.held_packed(name)
        if tensor is None:
            info = reader.info(name)
            entries.append(TensorEntry(name, info.shape, info.dtype, partial(reader.raw_chunks, name)))
        else:
            errors[name], found = _packed_entries(reader, name, tensor)
            entries += found
    size = sum(TensorInfo(entry.shape, entry.dtype).nbytes for entry in entries)
    check_room(out, size)
    root = root_of(base.path)
    folder = root if root.is_dir() else root.parent
    skipped = _full_precision(base.names, reader, errors)
    with atomic_folder(out) as path:
        # transformers 4 refuses safetensors files that do not say which framework wrote them.
        header = {"format": "pt", ORIGINAL: original}
        write_safetensors_folder(path, entries, header, max_shard_bytes=max_shard_bytes)
        write_companions(path, {**base.raw, QUANTISED: quantisation_config(base.quantisation, skipped)}, folder)
    worst = max(errors, key=lambda name: errors[name].ratio)
    whole = _Error(
        difference=sum(each.difference for each in errors.values()), whole=sum(each.whole for each in errors.values())
    )
    return QuantisedFolder(
        path=out,
        form=base.quantisation,
        layers=len(errors),
        tensors=len(reader),
        bytes_before=sum(reader.inner.info(name).nbytes for name in reader.inner.names),
        bytes_after=size,
        error=whole.ratio,
        worst=(worst, errors[worst].ratio),
    )


def _packed_entries(reader: PackedReader, name: str, tensor: PackedTensor) -> tuple[_Error, list[TensorEntry]]:
    """Quantise a matrix. The codes are made again when they are written: of each matrix the scales alone stay in memory."""
    values = reader.inner.read(name)
    values = np.ascontiguousarray(values.T if tensor.transposed else values)
    matrix = quantise(tensor.layout.form, values, f"{reader.path}: {name}")
    error = _error(values, matrix)
    dtype = tensor.dtype if tensor.dtype in _FLOATS else "float32"
    entries = array_entries(stored_arrays(name, matrix, dtype))
    codes = next(entry for entry in entries if entry.name == name)

    def again() -> Array:
        found: Array = stored_arrays(name, tensor.load(), dtype)[name]
        return found

    small = [TensorEntry(e.name, e.shape, e.dtype, e.load) for e in entries if e.name != name]
    return error, [TensorEntry(name, codes.shape, codes.dtype, again), *small]


def _error(values: Array, matrix: PackedMatrix) -> _Error:
    difference = whole = 0.0
    for rows, found in matrix.row_blocks():
        given = values[rows].astype(np.float32)
        difference += float(np.square(given - found, dtype=np.float64).sum())
        whole += float(np.square(given, dtype=np.float64).sum())
    return _Error(difference=difference, whole=whole)


def _full_precision(names: Mapping[str, StoredName], reader: PackedReader, packed: Mapping[str, object]) -> list[str]:
    """Return the modules, in Hugging Face's naming, whose matrix stays as it is: heads, poolers, embeddings."""
    stored = {name.removesuffix(".weight") for name in packed}
    modules = {also for known in names.values() for also in (known.name, *known.also) if also.endswith(".weight")}
    kept = {name.removesuffix(".weight") for name in modules}
    # A file may lack the task model's prefix.
    return sorted(name for name in kept if not any(name == one or name.endswith(f".{one}") for one in stored))


def quantisation_config(form: str, skipped: list[str]) -> JsonObject:
    """Return config.json's quantization_config, as transformers writes it for bitsandbytes. `skipped`: modules in full precision."""
    four = form == "nf4"
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": four,
        "load_in_8bit": not four,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4" if four else "fp4",
        "bnb_4bit_use_double_quant": four,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
    }
