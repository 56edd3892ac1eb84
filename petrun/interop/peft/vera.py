"""Read and write peft's VeRA adapters.

In the file (peft 0.21): `base_model.vera_A` (r, widest in) and `base_model.vera_B` (widest out, r), which all layers share, and
`base_model.model.<module>.vera_lambda_b` (out,), `.vera_lambda_d` (r,). Here: `<path>.mindpet_delta_vera_lambda_b` and `_lambda_d`, and
`_a`, `_b` of the first adapted layer. Without save_projection the file lacks A and B, which PyTorch draws anew: that is refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from petrun.checkpoint.delta import Delta
from petrun.delta.vera import VERA_A, VERA_B, VERA_LAMBDA_B, VERA_LAMBDA_D
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
from petrun.tensors import TensorEntry

_KIND = "VeRA"
_LEAVES = {VERA_LAMBDA_B: "vera_lambda_b", VERA_LAMBDA_D: "vera_lambda_d"}
_AXES = {"vera_lambda_b": "(out)", "vera_lambda_d": "(r)"}
_SHARED = {VERA_A: "base_model.vera_A", VERA_B: "base_model.vera_B"}
_READ = ("r", "vera_dropout", "d_initial", "save_projection")


def read_vera(reading: Reading) -> Delta:
    """Convert a VeRA adapter to a delta of VeRA. Raises DeltaError as from_peft says."""
    fields = Fields(reading.delta.config)
    # The key draws the matrices that the file holds.
    fields.refuse_others((*OF_EVERY_KIND, *_READ), ("projection_prng_key",))
    fields.check_task()
    settings = {
        "rank": fields.count("r", 256),
        "dropout": fields.number("vera_dropout", 0.0),
        "d_initial": fields.number("d_initial", 0.1),
    }
    if fields.raw.get("save_projection", True) is not True:
        fields.problems.append(
            "save_projection: is off, so the file lacks A and B, which PyTorch draws anew; save it with save_projection true"
        )
    targets = fields.targets()
    raise_fields(reading, fields, _KIND)
    rank = settings["rank"]
    both = {
        leaf: name
        for leaf, base in _SHARED.items()
        for name in (base, f"{base}.default")
        if name in reading.delta.shapes
    }
    layers = sorted_layers(reading, _LEAVES, set(both.values()))
    for layer in layers.values():
        shapes = shapes_of(reading, layer, _AXES)
        if shapes is not None and shapes[1] != (rank,):
            reading.problems.append(f"{layer.module}: vera_lambda_d is {list(shapes[1])}, the config says {rank}")
    for leaf, base in _SHARED.items():
        shape = reading.delta.shapes[both[leaf]] if leaf in both else ()
        if len(shape) != 2 or shape[0 if leaf == VERA_A else 1] != rank:
            told = f"is {list(shape)}" if leaf in both else "is missing"
            reading.problems.append(
                f"{base}: {told}; must be {'(r, in)' if leaf == VERA_A else '(out, r)'}, with r = {rank}"
            )
    paths = reading.in_order(layers)
    if paths:
        reading.found |= {f"{paths[0]}.{leaf}": stored for leaf, stored in both.items()}
    check_layers(reading, layers, targets, _KIND, conv1d=True)
    return reading.finish({**settings, "target": paths})


def write_vera(request: ExportRequest) -> None:
    """Write a VeRA delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    tensors = request.delta.tensors
    both = {name: _SHARED[name.rpartition(".")[2]] for name in tensors if name.rpartition(".")[2] in _SHARED}
    vectors = {name: tensors[name] for name in tensors if name not in both}
    export = collected(replace(request, delta=replace(request.delta, tensors=vectors)), _LEAVES, _KIND, conv1d=True)
    export.entries += [
        TensorEntry(stored, request.delta.shapes[name], "float32", partial(tensors.__getitem__, name))
        for name, stored in both.items()
    ]
    config = request.delta.config
    own = {
        "r": config["rank"],
        "vera_dropout": config.get("dropout", 0.0),
        "d_initial": config["d_initial"],
        "projection_prng_key": 0,
        "save_projection": True,
        "fan_in_fan_out": any(request.names[f"{path}.weight"].transpose for path in export.modules),
    }
    write_layers(request, export, "VERA", own)
