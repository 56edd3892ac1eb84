"""Read and write peft's AdaLoRA adapters.

In the file (peft 0.21): `base_model.model.<module>.lora_A` (r, in), `.lora_E` (r, 1) and `.lora_B` (out, r). Once ranks were pruned
the file holds the remaining ones, and the config's rank_pattern says which of the init_r triplets they are. Here every layer has init_r:
`<path>.mindpet_delta_adalora_a`, `_e` (R,), `_b`, with zeros where one was pruned, and `_keep` (R,), 1 or 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.delta.adalora import ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP
from petrun.interop.peft.config import Fields
from petrun.interop.peft.layers import Layer, sorted_layers
from petrun.interop.peft.lora_config import HARMLESS
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import ExportRequest, collect, common_fields, compact, plain, write_folder
from petrun.tensors import Array
from petrun.typing import JsonObject

_LEAVES = {ADALORA_A: "lora_A", ADALORA_E: "lora_E", ADALORA_B: "lora_B"}
_READ = (
    "init_r target_r lora_alpha lora_dropout rank_pattern target_modules exclude_modules layers_to_transform layers_pattern "
    "modules_to_save bias task_type"
).split()
# Settings of training, and fields of LoRA that AdaLoRA does not use.
_UNUSED = (
    "tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step r use_rslora alpha_pattern init_lora_weights".split()
)


def read_adalora(reading: Reading) -> Delta:
    """Convert an AdaLoRA adapter to a delta of AdaLoRA. Raises DeltaError as from_peft says."""
    delta = reading.delta
    fields = Fields(delta.config)
    fields.refuse_others(_READ, (*HARMLESS, *_UNUSED))
    fields.check_task()
    width, rank = fields.count("init_r", 12), fields.count("target_r", 8)
    alpha, dropout = fields.number("lora_alpha", 8.0), fields.number("lora_dropout", 0.0)
    kept, targets = _kept(fields, width), fields.targets()
    fields.raise_problems(
        str(delta.path / ADAPTER_CONFIG), "petrun reads AdaLoRA adapters of linear layers, with heads."
    )
    layers = sorted_layers(reading, _LEAVES)
    reading.flat |= {name for name in reading.found if name.endswith(f".{ADALORA_E}")}
    keep = {path: kept.get(layer.module, np.ones(width, np.float32)) for path, layer in layers.items()}
    for path, layer in layers.items():
        _check(reading, layer, keep[path])
        if targets.targets_module(layer.module) is False:
            reading.problems.append(f"{layer.module}: has tensors, but target_modules does not name it")
    if not reading.problems:
        reading.check_complete(targets, {path: layer.module for path, layer in layers.items()}, "its matrices")
    if not layers and not reading.problems:
        reading.problems.append("it holds no lora_A, lora_E and lora_B tensors")
    config = {
        "rank": min(rank, width),
        "init_rank": width,
        # peft's scale where alpha is not positive: 1.
        "alpha": alpha if alpha > 0 else float(width),
        "dropout": dropout,
        "target": reading.in_order(layers),
    }
    return _widened(reading.finish(config), keep)


def _kept(fields: Fields, width: int) -> dict[str, Array]:
    """Return, for each module, 1 for a triplet in use and 0 for a pruned one."""
    pattern = fields.raw.get("rank_pattern") or {}
    good = isinstance(pattern, Mapping) and all(
        isinstance(flags, list) and len(flags) == width and all(flag in (0, 1) for flag in flags)
        for flags in pattern.values()
    )
    if not good:
        fields.problems.append(
            f"rank_pattern: must be a map of layers to lists of {width} times true or false (init_r)"
        )
        return {}
    return {re.sub(r"\.lora_E(\.[^.]+)?$", "", name): np.array(flags, np.float32) for name, flags in pattern.items()}


def _check(reading: Reading, layer: Layer, keep: Array) -> None:
    """Check that a layer has all three matrices, of matching shapes, with the number of triplets that the config states, or all."""
    lacking = [part for part in _LEAVES.values() if part not in layer.parts]
    if lacking:
        reading.problems.append(f"{layer.module}: lacks {', '.join(lacking)}")
        return
    a, e, b = (tuple(reading.delta.shapes[layer.parts[part]]) for part in _LEAVES.values())
    left, width = int(keep.sum()), len(keep)
    if len(a) != 2 or len(b) != 2 or e != (a[0], 1) or b[1] != a[0]:
        reading.problems.append(
            f"{layer.module}: lora_A {list(a)}, lora_E {list(e)} and lora_B {list(b)} do not multiply"
        )
    elif a[0] not in (left, width):
        reading.problems.append(f"{layer.module}: has {a[0]} triplets, the config says {left}")


def _widened(delta: Delta, keep: Mapping[str, Array]) -> Delta:
    """Return every layer with init_r triplets, zeros for the pruned ones, and its mask."""
    tensors: dict[str, Array] = {name: delta.tensors[name] for name in delta.tensors}
    for path, mask in keep.items():
        indices = np.flatnonzero(mask)
        for leaf, axis in ((ADALORA_A, 0), (ADALORA_E, 0), (ADALORA_B, 1)):
            given = tensors[f"{path}.{leaf}"]
            if given.shape[axis] < len(mask):
                wide = np.zeros([len(mask) if i == axis else n for i, n in enumerate(given.shape)], np.float32)
                wide[(slice(None),) * axis + (indices,)] = given
                tensors[f"{path}.{leaf}"] = wide
        tensors[f"{path}.{ADALORA_KEEP}"] = mask
    return replace(delta, tensors=tensors, digest=arrays_digest(tensors))


def write_adalora(request: ExportRequest) -> None:
    """Write an AdaLoRA delta as an adapter folder, without the pruned triplets. Raises DeltaError and OutputError as write_peft says."""
    narrow, kept = _narrowed(request.delta)
    names, config = request.names, request.delta.config
    export = collect(narrow, names, _LEAVES, _in_two_axes)
    rank = config["rank"]
    width = config.get("init_rank") or -(-3 * rank // 2)
    given_up = any(not all(flags) for flags in kept.values())
    exported: JsonObject = {
        **common_fields("ADALORA", request, export.heads),
        "init_r": width,
        "target_r": rank,
        "lora_alpha": plain(config["alpha"]),
        "lora_dropout": config.get("dropout", 0.0),
        # peft requires a schedule whose end is after its beginning before it loads the rest.
        "tinit": 0,
        "tfinal": 0,
        "total_step": max(1, request.delta.manifest.step if request.delta.manifest is not None else 1),
        "bias": export.bias,
        "fan_in_fan_out": any(names[f"{path}.weight"].transpose for path in export.modules),
        "target_modules": compact(set(export.modules.values()), names.values()),
        "modules_to_save": sorted(export.heads) or None,
        "rank_pattern": {f"{export.modules[path]}.lora_E": flags for path, flags in kept.items()} if given_up else None,
    }
    write_folder(request.out, exported, export.entries)


def _narrowed(delta: Delta) -> tuple[Delta, dict[str, list[bool]]]:
    """Return the delta with only the triplets in use and without masks; and path -> mask."""
    tensors: dict[str, Array] = {}
    kept: dict[str, list[bool]] = {}
    for name in delta.tensors:
        path, _, leaf = name.rpartition(".")
        values = delta.tensors[name]
        if leaf in _LEAVES or leaf == ADALORA_KEEP:
            indices = np.flatnonzero(delta.tensors[f"{path}.{ADALORA_KEEP}"])
            if leaf == ADALORA_KEEP:
                kept[path] = [bool(flag) for flag in values]
                continue
            values = np.take(values, indices, axis=1 if leaf == ADALORA_B else 0)
        tensors[name] = values
    return replace(delta, tensors=tensors), kept


def _in_two_axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1) if name.endswith(f".{ADALORA_E}") else shape
