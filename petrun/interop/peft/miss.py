"""Read and write peft's MiSS adapters.

In the file (peft 0.21): `base_model.model.<module>.miss_block` (r, out). Here: `<path>.mindpet_delta_miss_block`, of the same shape.
Refused: the variants bat and mini (init_weights), whose matrices have other shapes and compute something else.
"""

from __future__ import annotations

from petrun.checkpoint.delta import Delta
from petrun.delta.miss import MISS_BLOCK
from petrun.interop.peft.config import Fields
from petrun.interop.peft.layers import (
    OF_EVERY_KIND,
    check_layers,
    collected,
    raise_fields,
    shapes_of,
    sorted_layers,
    write_layers,
)
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import ExportRequest

_KIND = "MiSS"
_LEAVES = {MISS_BLOCK: "miss_block"}
_AXES = {"miss_block": "(r, out)"}
_READ = ("r", "miss_dropout")
# Of the variant mini alone.
_HARMLESS = ("mini_r",)


def read_miss(reading: Reading) -> Delta:
    """Convert a MiSS adapter to a delta of MiSS. Raises DeltaError as from_peft says."""
    fields = Fields(reading.delta.config)
    fields.refuse_others((*OF_EVERY_KIND, *_READ), _HARMLESS)
    fields.check_task()
    settings = {"rank": fields.count("r", 64), "dropout": fields.number("miss_dropout", 0.0)}
    if isinstance(fields.raw.get("init_weights"), str):
        fields.problems.append(f"init_weights: the variant {fields.raw['init_weights']!r} is not supported")
    targets = fields.targets()
    raise_fields(reading, fields, _KIND)
    layers = sorted_layers(reading, _LEAVES)
    for layer in layers.values():
        shapes = shapes_of(reading, layer, _AXES)
        if shapes is not None and shapes[0][0] != settings["rank"]:
            reading.problems.append(
                f"{layer.module}: miss_block is {list(shapes[0])}, the config says r = {settings['rank']}"
            )
    check_layers(reading, layers, targets, _KIND)
    return reading.finish({**settings, "target": reading.in_order(layers)})


def write_miss(request: ExportRequest) -> None:
    """Write a MiSS delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    export = collected(request, _LEAVES, _KIND)
    config = request.delta.config
    write_layers(
        request, export, "MISS", {"r": config["rank"], "miss_dropout": config.get("dropout", 0.0), "bias": "none"}
    )
