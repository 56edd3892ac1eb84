"""Write the parts that all kinds of peft adapter folders share: names, heads, biases and the two files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Delta
from petrun.data.tasks import CLASS_TASKS, DECODER_TASKS
from petrun.delta.lora import LORA_A, LORA_B
from petrun.errors import DeltaError, did_you_mean
from petrun.graph.sites import Sites
from petrun.interop.peft.config import TASKS
from petrun.interop.peft.reading import PREFIX
from petrun.models.base import StoredName
from petrun.tensors import Array, TensorEntry, atomic_file, atomic_folder, write_safetensors
from petrun.typing import JsonObject

Shaped = Callable[[str, tuple[int, ...]], tuple[int, ...]]
"""(parameter name, its shape) -> the shape in peft's file."""


_TABLE_LEAVES = {LORA_A: "lora_embedding_B", LORA_B: "lora_embedding_A"}
"""peft stores both factors of an embedding transposed: A (R, V) and B (H, R)."""


def same_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


_HEADS = {"classifier", "score"}
"""Modules that peft saves with every adapter of a classifier."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A request to export a delta as an adapter folder that peft loads."""

    delta: Delta
    names: Mapping[str, StoredName]
    """Net parameter -> its Hugging Face name."""
    out: Path
    task: str | None = None
    """petrun's (classify, tokens, lm, instruct), for peft's task_type."""
    base: str | None = None
    """Name or path from which peft loads the base."""
    sites: Sites | None = None


@dataclass
class Export:
    """The names and tensors of an adapter, collected before it is written."""

    modules: dict[str, str] = field(default_factory=dict)
    """Path -> module of the adapted layers."""
    heads: set[str] = field(default_factory=set)
    """Modules saved in full."""
    bias: str = "none"
    """peft's word for the biases that are trained without their weights: none, lora_only (of adapted layers), all."""
    entries: list[TensorEntry] = field(default_factory=list)


def collect(
    delta: Delta,
    names: Mapping[str, StoredName],
    leaves: Mapping[str, str],
    shaped: Shaped = same_shape,
    prefix: str = PREFIX,
    tables: Collection[str] = (),
) -> Export:
    """Collect every tensor of a delta under peft's name. `leaves`: last part of an adapter parameter's name -> peft's suffix after the
    module.
    `tables`: paths of embeddings.

    Raises DeltaError: a tensor without a Hugging Face name, or a module that is trained in part (peft saves complete modules).
    """
    export = Export()
    owned = {name: _parameter(name, leaves) for name in delta.tensors}
    for name, parameter in owned.items():
        if parameter not in names:
            raise DeltaError(f"{delta.path}: {name} has no Hugging Face name", hint=did_you_mean(parameter, names))
        if parameter != name:
            export.modules[name.rpartition(".")[0]] = names[parameter].name.rpartition(".")[0]
    adapted = set(export.modules.values())
    for name, parameter in owned.items():
        module, _, leaf = names[parameter].name.rpartition(".")
        factor = parameter != name
        in_table = factor and name.rpartition(".")[0] in tables
        if in_table:
            stored = f"{module}.{_TABLE_LEAVES[name.rpartition('.')[2]]}"
        elif factor:
            stored = f"{module}.{leaves[name.rpartition('.')[2]]}"
        elif module in adapted:
            stored = f"{module}.base_layer.{leaf}"
            export.bias = "lora_only" if leaf == "bias" and export.bias == "none" else export.bias
        elif leaf == "bias" and not any(s.name == f"{module}.weight" and p in delta.tensors for p, s in names.items()):
            stored, export.bias = f"{module}.{leaf}", "all"
        else:
            stored = f"{module}.{leaf}"
            export.heads.add(_saved_module(module))
        transposed = in_table or (not factor and names[parameter].transpose)
        shape = tuple(reversed(delta.shapes[name])) if transposed else delta.shapes[name]
        shape = shaped(name, shape) if factor else shape
        export.entries.append(
            TensorEntry(prefix + stored, shape, "float32", partial(_values, delta, name, transposed, shape))
        )
    _check_whole(delta, names, export.heads)
    return export


def _parameter(name: str, leaves: Mapping[str, str]) -> str:
    """Return the weight of the layer that an adapter parameter belongs to; any other parameter itself."""
    path, _, leaf = name.rpartition(".")
    return f"{path}.weight" if leaf in leaves else name


def _saved_module(module: str) -> str:
    """Return what modules_to_save names for a module that is trained whole: a head of several layers, as RoBERTa's, is one module."""
    first = module.partition(".")[0]
    return first if first in _HEADS else module


def _check_whole(delta: Delta, names: Mapping[str, StoredName], heads: set[str]) -> None:
    for parameter, stored in names.items():
        if _saved_module(stored.name.rpartition(".")[0]) in heads and parameter not in delta.tensors:
            raise DeltaError(
                f"{delta.path}: lacks {stored.name}, though it trains its module; peft saves them whole",
                hint="Train the whole module, or keep the delta in petrun's own format.",
            )


def refuse_lone_biases(delta: Delta, export: Export, kind: str) -> None:
    """Raises DeltaError where biases are trained without their weights: only LoRA's config has a field for them."""
    if export.bias != "none":
        raise DeltaError(
            f"{delta.path}: trains biases, for which peft's {kind} adapters have no place",
            hint="Keep the delta in petrun's own format, or merge it into its base.",
        )


def _values(delta: Delta, name: str, transposed: bool, shape: tuple[int, ...]) -> Array:
    values = delta.tensors[name]
    return np.ascontiguousarray(values.T if transposed else values).reshape(shape)


def common_fields(kind: str, request: ExportRequest, heads: set[str]) -> JsonObject:
    """Return the fields that every adapter_config.json begins with."""
    return {
        "peft_type": kind,
        "task_type": _task_type(request, heads),
        "base_model_name_or_path": request.base,
        "revision": None,
        "inference_mode": True,
    }


def _task_type(request: ExportRequest, heads: set[str]) -> str | None:
    """Return peft's task type. Those of classes require a trained head in the file; without one the adapter declares no task."""
    if request.task in CLASS_TASKS:
        return next(theirs for theirs, ours in TASKS.items() if ours == request.task) if heads & _HEADS else None
    if request.task not in DECODER_TASKS:
        return None
    return "SEQ_2_SEQ_LM" if request.sites is not None and request.sites.encoder_decoder else "CAUSAL_LM"


def write_folder(out: Path, config: JsonObject, entries: Iterable[TensorEntry]) -> None:
    """Write adapter_config.json and adapter_model.safetensors, both or neither. Raises OutputError."""
    with atomic_folder(out) as folder:
        write_safetensors(folder / ADAPTER_WEIGHTS, list(entries), {"format": "pt"})
        with atomic_file(folder / ADAPTER_CONFIG) as (file, _):
            file.write((json.dumps(config, indent=2) + "\n").encode())


def compact(modules: set[str], stored: Iterable[StoredName]) -> list[str]:
    """Return the shortest names that match exactly these modules: their leaf names, or else their full paths."""
    leaves = {module.rpartition(".")[2] for module in modules}
    everywhere = {s.name.removesuffix(".weight") for s in stored if s.name.endswith(".weight")}
    alike = {module for module in everywhere if module.rpartition(".")[2] in leaves}
    return sorted(leaves if alike == modules else modules)


def by_module(pattern: JsonObject, modules: Mapping[str, str]) -> JsonObject:
    """Convert path -> value to peft's regular expression -> value."""
    return {f"^{re.escape(modules[path])}": plain(value) for path, value in pattern.items() if path in modules}


def plain(value: float) -> float:
    """Return 16.0 as 16, because peft's alpha is an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
