"""Read and write the parts that adapters with matrices of their own beside each layer share.

In the file: `base_model.model.<module>.<part>`, with the adapter's name or `.weight` behind it or not. Here: `<path>.<leaf>`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from petrun.checkpoint.delta import ADAPTER_CONFIG
from petrun.errors import DeltaError
from petrun.interop.peft.config import Fields, Ranks, Targets
from petrun.interop.peft.reading import PREFIX, Reading
from petrun.interop.peft.writing import (
    Export,
    ExportRequest,
    by_module,
    collect,
    common_fields,
    compact,
    plain,
    refuse_lone_biases,
    write_folder,
)
from petrun.typing import JsonObject

OF_EVERY_KIND = (
    "task_type target_modules exclude_modules layers_to_transform layers_pattern modules_to_save bias fan_in_fan_out init_weights"
).split()
"""Fields of every config that are read here, or that change nothing of what a trained adapter computes."""


@dataclass
class Layer:
    """What the file holds for one layer."""

    module: str
    """Path in the adapter's own model, which the config's patterns match."""
    parts: dict[str, str] = field(default_factory=dict)
    """peft's name of a matrix -> name in the file."""


def sorted_layers(reading: Reading, leaves: Mapping[str, str], beside: Collection[str] = ()) -> dict[str, Layer]:
    """Sort the file's tensors by layer; heads and biases are read in full.

    `leaves`: last part of our name -> peft's name of the matrix. `beside`: names in the file of tensors that belong to no layer.
    """
    ours = {part: leaf for leaf, part in leaves.items()}
    expression = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(ours)})(?:\.(?!weight$)[^.]+)?(?:\.weight)?")
    layers: dict[str, Layer] = {}
    for stored in (name for name in reading.delta.tensors if name not in beside):
        name = stored.removeprefix(PREFIX)
        match = expression.fullmatch(name)
        if name == stored:
            reading.problems.append(f"{stored}: does not begin with {PREFIX}")
        elif match is None:
            reading.full_tensor(stored, name)
        elif path := reading.layer(match["module"], f"{match['part']} of {match['module']}"):
            layer = layers.setdefault(path, Layer(match["module"]))
            if match["part"] in layer.parts:
                reading.problems.append(f"{stored} and {layer.parts[match['part']]} are the same matrix")
            layer.parts[match["part"]] = stored
            reading.found[f"{path}.{ours[match['part']]}"] = stored
    return layers


def shapes_of(reading: Reading, layer: Layer, wanted: Mapping[str, str]) -> list[tuple[int, ...]] | None:
    """Return the shapes of a layer's matrices, in the order of `wanted`: peft's name -> axes, as "(out, r)", for the message; None, and a
    problem, where one is missing or has another number of axes.
    """
    lacking = [part for part in wanted if part not in layer.parts]
    if lacking:
        reading.problems.append(f"{layer.module}: lacks {', '.join(lacking)}")
        return None
    shapes = [reading.delta.shapes[layer.parts[part]] for part in wanted]
    wrong = [
        f"{layer.module}: {part} is {list(shape)}, must be {axes}"
        for (part, axes), shape in zip(wanted.items(), shapes, strict=True)
        if len(shape) != len(axes.split(","))
    ]
    reading.problems += wrong
    return None if wrong else shapes


def check_layers(
    reading: Reading, layers: Mapping[str, Layer], targets: Targets, kind: str, *, conv1d: bool = False
) -> None:
    """Require the layers of the file to be those that the config names, and raise all problems as one DeltaError. `conv1d`: whether peft
    adapts a Conv1D.
    """
    for path, layer in layers.items():
        if targets.targets_module(layer.module) is False:
            reading.problems.append(f"{layer.module}: has tensors, but target_modules does not name it")
        if reading.names[f"{path}.weight"].transpose and not conv1d:
            reading.problems.append(f"{layer.module}: is a Conv1D, for which peft has no {kind}")
    if not reading.problems:
        reading.check_complete(targets, {path: layer.module for path, layer in layers.items()}, "its matrices")
    if not layers and not reading.problems:
        reading.problems.append(f"it holds no tensors of {kind}")
    reading.raise_problems()


def raise_fields(reading: Reading, fields: Fields, kind: str) -> None:
    """Raise the config's problems, where there are any, as one DeltaError."""
    fields.raise_problems(
        str(reading.delta.path / ADAPTER_CONFIG), f"petrun reads {kind} adapters of linear layers, with heads."
    )


def ranked_settings(reading: Reading, ranks: Ranks, layers: Mapping[str, Layer]) -> JsonObject:
    """Return the settings of a RankedConfig."""
    paths = reading.in_order(layers)
    own = {path: (ranks.rank_of(layers[path].module), ranks.alpha_of(layers[path].module)) for path in paths}
    return {
        "rank": ranks.rank,
        "alpha": ranks.alpha,
        "target": paths,
        "rank_pattern": {path: rank for path, (rank, _) in own.items() if rank != ranks.rank},
        "alpha_pattern": {path: alpha for path, (_, alpha) in own.items() if alpha != ranks.alpha},
    }


def ranked_fields(config: JsonObject, export: Export) -> JsonObject:
    """Return peft's fields of ranks and alphas."""
    return {
        "r": config["rank"],
        "alpha": plain(config["alpha"]),
        "rank_pattern": by_module(config.get("rank_pattern", {}), export.modules),
        "alpha_pattern": by_module(config.get("alpha_pattern", {}), export.modules),
    }


def collected(request: ExportRequest, leaves: Mapping[str, str], kind: str, *, conv1d: bool = False) -> Export:
    """Collect the tensors of a delta under peft's names. Raises DeltaError: as `collect`, for biases without their weights, and for a
    Conv1D unless peft adapts it (`conv1d`).
    """
    export = collect(request.delta, request.names, leaves)
    refuse_lone_biases(request.delta, export, kind)
    stored = [path for path in export.modules if request.names[f"{path}.weight"].transpose]
    if stored and not conv1d:
        raise DeltaError(
            f"{request.delta.path}: adapts {export.modules[stored[0]]}, a Conv1D, for which peft has no {kind}",
            hint="Keep the delta in petrun's own format, or merge it into its base.",
        )
    return export


def write_layers(request: ExportRequest, export: Export, kind: str, own: JsonObject) -> None:
    """Write the folder. `kind`: peft_type; `own`: the config's fields that only this kind has. Raises OutputError."""
    names = request.names
    config = {
        **common_fields(kind, request, export.heads),
        **own,
        "init_weights": True,
        "target_modules": compact(set(export.modules.values()), names.values()),
        "modules_to_save": sorted(export.heads) or None,
    }
    write_folder(request.out, config, export.entries)
