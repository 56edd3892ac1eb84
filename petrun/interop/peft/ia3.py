"""Read and write peft's (IA)^3 adapters.

In the file (peft 0.21): `base_model.model.<module>.ia3_l`, (out, 1) where the output is scaled and (1, in) where the input is, which the
config calls feedforward_modules. Here: `<path>.mindpet_delta_ia3_l` (out,) and `<path>.mindpet_delta_ia3_l_ff` (in,).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.delta.ia3 import IA3_L, IA3_L_FF
from petrun.interop.peft.config import Fields
from petrun.interop.peft.reading import PREFIX, Reading
from petrun.interop.peft.writing import (
    Export,
    ExportRequest,
    collect,
    common_fields,
    compact,
    refuse_lone_biases,
    write_folder,
)
from petrun.models.base import StoredName

_SCALE = re.compile(r"(?P<module>.+)\.ia3_l(?:\.[^.]+)?")
_LEAVES = {IA3_L: "ia3_l", IA3_L_FF: "ia3_l"}
_READ = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "task_type")
_HARMLESS = ("fan_in_fan_out", "init_ia3_weights")


def read_ia3(reading: Reading) -> Delta:
    """Convert an (IA)^3 adapter to a delta of (IA)^3. Raises DeltaError as from_peft says."""
    delta = reading.delta
    fields = Fields(delta.config)
    fields.refuse_others(_READ, _HARMLESS)
    fields.check_task()
    targets, feedforward = fields.targets(), fields.names("feedforward_modules")
    fields.raise_problems(
        str(delta.path / ADAPTER_CONFIG), "petrun reads (IA)^3 adapters of linear layers, with heads."
    )
    inner: dict[str, bool] = {}
    modules: dict[str, str] = {}
    for stored, shape in delta.shapes.items():
        name = stored.removeprefix(PREFIX)
        match = _SCALE.fullmatch(name)
        if name == stored:
            reading.problems.append(f"{stored}: does not begin with {PREFIX}")
        elif match is None:
            reading.full_tensor(stored, name)
        elif path := reading.layer(match["module"], f"ia3_l of {match['module']}"):
            module = match["module"]
            inner[path], modules[path] = _is_inner(reading, module, shape, feedforward), module
            if targets.targets_module(module) is False:
                reading.problems.append(f"{module}: has a scale, but target_modules does not name it")
            ours = f"{path}.{IA3_L_FF if inner[path] else IA3_L}"
            if ours in reading.found:
                reading.problems.append(f"{stored} and {reading.found[ours]} are the same scale")
            reading.found[ours] = stored
            reading.flat.add(ours)
    if not reading.problems:
        reading.check_complete(targets, modules, "its scale")
    if not modules and not reading.problems:
        reading.problems.append("it holds no ia3_l tensors")
    paths = reading.in_order(modules)
    return reading.finish({"target": paths, "feedforward": [path for path in paths if inner[path]]})


def _is_inner(reading: Reading, module: str, shape: tuple[int, ...], feedforward: str | tuple[str, ...]) -> bool:
    """Return whether the layer is scaled at its input: the shape says so, and the config must agree."""
    named = _is_feedforward(feedforward, module)
    wanted = "(1, in)" if named else "(out, 1)"
    if len(shape) != 2 or shape[0 if named else 1] != 1:
        told = "names it" if named else "does not name it"
        reading.problems.append(f"{module}: its scale is {list(shape)}, must be {wanted}: feedforward_modules {told}")
    return named


def _is_feedforward(patterns: str | tuple[str, ...], module: str) -> bool:
    """Decide as peft does: a list holds ends of paths, not only from a dot on."""
    if isinstance(patterns, str):
        return bool(patterns) and re.fullmatch(patterns, module) is not None
    return any(module.endswith(pattern) for pattern in patterns)


def write_ia3(request: ExportRequest) -> None:
    """Write an (IA)^3 delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    delta, names = request.delta, request.names
    export = collect(delta, names, _LEAVES, _in_two_axes)
    refuse_lone_biases(delta, export, "(IA)^3")
    inner = {module for path, module in export.modules.items() if f"{path}.{IA3_L_FF}" in delta.tensors}
    target, feedforward = _patterns(export, inner, names)
    exported = {
        **common_fields("IA3", request, export.heads),
        "target_modules": target,
        "feedforward_modules": feedforward,
        "fan_in_fan_out": any(names[f"{path}.weight"].transpose for path in export.modules),
        "modules_to_save": sorted(export.heads) or None,
        "init_ia3_weights": True,
    }
    write_folder(request.out, exported, export.entries)


def _in_two_axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if name.endswith(f".{IA3_L_FF}") else (*shape, 1)


def _patterns(export: Export, inner: set[str], names: Mapping[str, StoredName]) -> tuple[list[str], list[str]]:
    """Return target_modules and feedforward_modules, a subset of them as peft requires: leaf names where these match the same layers."""
    modules = set(export.modules.values())
    target = compact(modules, names.values())
    leaves = sorted({module.rpartition(".")[2] for module in inner})
    short = set(leaves) <= set(target) and not any(_is_feedforward(tuple(leaves), m) for m in modules - inner)
    return (target, leaves) if short else (sorted(modules), sorted(inner))
