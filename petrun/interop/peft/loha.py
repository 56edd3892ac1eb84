"""Read and write peft's LoHa adapters.

In the file (peft 0.21): `base_model.model.<module>.hada_w1_a` (out, r), `.hada_w1_b` (r, in), `.hada_w2_a`, `.hada_w2_b`. Here:
`<path>.mindpet_delta_loha_w1_a` and so on, of the same shapes. rank_dropout and module_dropout act in training alone, and petrun has none.
"""

from __future__ import annotations

from petrun.checkpoint.delta import Delta
from petrun.delta.loha import LOHA_W1_A, LOHA_W1_B, LOHA_W2_A, LOHA_W2_B
from petrun.interop.peft.config import Fields, read_ranks
from petrun.interop.peft.layers import (
    OF_EVERY_KIND,
    check_layers,
    collected,
    raise_fields,
    ranked_fields,
    ranked_settings,
    shapes_of,
    sorted_layers,
    write_layers,
)
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import ExportRequest

_KIND = "LoHa"
_LEAVES = {LOHA_W1_A: "hada_w1_a", LOHA_W1_B: "hada_w1_b", LOHA_W2_A: "hada_w2_a", LOHA_W2_B: "hada_w2_b"}
_AXES = {"hada_w1_a": "(out, r)", "hada_w1_b": "(r, in)", "hada_w2_a": "(out, r)", "hada_w2_b": "(r, in)"}
_READ = ("r", "alpha", "rank_pattern", "alpha_pattern")
# Of convolutions, and of training.
_HARMLESS = ("use_effective_conv2d", "rank_dropout", "module_dropout")


def read_loha(reading: Reading) -> Delta:
    """Convert a LoHa adapter to a delta of LoHa. Raises DeltaError as from_peft says."""
    fields = Fields(reading.delta.config)
    fields.refuse_others((*OF_EVERY_KIND, *_READ), _HARMLESS)
    fields.check_task()
    ranks, targets = read_ranks(fields, "alpha"), fields.targets()
    raise_fields(reading, fields, _KIND)
    layers = sorted_layers(reading, _LEAVES)
    for layer in layers.values():
        shapes = shapes_of(reading, layer, _AXES)
        if shapes is None:
            continue
        rank = ranks.rank_of(layer.module)
        if shapes[:2] != shapes[2:] or shapes[0][1] != rank or shapes[1][0] != rank:
            told = ", ".join(f"{part} {list(shape)}" for part, shape in zip(_AXES, shapes, strict=True))
            reading.problems.append(f"{layer.module}: {told}: they do not go together at rank {rank}")
        if ranks.alpha_of(layer.module) == 0:
            reading.problems.append(f"{layer.module}: alpha is 0, so the adapter does nothing")
    check_layers(reading, layers, targets, _KIND)
    return reading.finish(ranked_settings(reading, ranks, layers))


def write_loha(request: ExportRequest) -> None:
    """Write a LoHa delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    export = collected(request, _LEAVES, _KIND)
    write_layers(request, export, "LOHA", ranked_fields(request.delta.config, export))
