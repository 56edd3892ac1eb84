"""Read and write peft's LoKr adapters.

In the file (peft 0.21): `base_model.model.<module>.lokr_w1` (L, M), or `.lokr_w1_a` (L, r) and `.lokr_w1_b` (r, M); `.lokr_w2` (K, N), or
`.lokr_w2_a` and `.lokr_w2_b`. Here: `<path>.mindpet_delta_lokr_w1` and so on, of the same shapes. rank_dropout and module_dropout act in
training alone, and petrun has none.
"""

from __future__ import annotations

from petrun.checkpoint.delta import Delta
from petrun.delta.lokr import LOKR_W1, LOKR_W1_A, LOKR_W1_B, LOKR_W2, LOKR_W2_A, LOKR_W2_B, LokrConfig
from petrun.interop.peft.config import Fields, read_ranks
from petrun.interop.peft.layers import (
    OF_EVERY_KIND,
    Layer,
    check_layers,
    collected,
    raise_fields,
    ranked_fields,
    ranked_settings,
    sorted_layers,
    write_layers,
)
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import ExportRequest

_KIND = "LoKr"
_LEAVES = {
    leaf: leaf.removeprefix("mindpet_delta_") for leaf in (LOKR_W1, LOKR_W1_A, LOKR_W1_B, LOKR_W2, LOKR_W2_A, LOKR_W2_B)
}
_READ = ("r", "alpha", "rank_pattern", "alpha_pattern", "decompose_both", "decompose_factor")
# Of convolutions, and of training.
_HARMLESS = ("use_effective_conv2d", "rank_dropout", "module_dropout", "rank_dropout_scale")


def read_lokr(reading: Reading) -> Delta:
    """Convert a LoKr adapter to a delta of LoKr. Raises DeltaError as from_peft says."""
    fields = Fields(reading.delta.config)
    fields.refuse_others((*OF_EVERY_KIND, *_READ), _HARMLESS)
    fields.check_task()
    ranks, targets = read_ranks(fields, "alpha"), fields.targets()
    both = fields.flag("decompose_both")
    factor = -1 if fields.raw.get("decompose_factor", -1) == -1 else fields.count("decompose_factor", 1)
    raise_fields(reading, fields, _KIND)
    layers = sorted_layers(reading, _LEAVES)
    settings = {**ranked_settings(reading, ranks, layers), "decompose_both": both, "decompose_factor": factor}
    config = LokrConfig.model_validate({**settings, "alpha": settings["alpha"] or 1.0, "alpha_pattern": {}})
    for path, layer in layers.items():
        _check(reading, layer, path, config)
        if ranks.alpha_of(layer.module) == 0:
            reading.problems.append(f"{layer.module}: alpha is 0, so the adapter does nothing")
    check_layers(reading, layers, targets, _KIND)
    return reading.finish(settings)


def _check(reading: Reading, layer: Layer, path: str, config: LokrConfig) -> None:
    """Check that a layer has the matrices that its sizes and the settings ask for. Its sizes are those of the matrices together."""
    shapes = {part: reading.delta.shapes[name] for part, name in layer.parts.items()}
    if any(len(shape) != 2 for shape in shapes.values()):
        told = ", ".join(f"{part} {list(shape)}" for part, shape in shapes.items())
        reading.problems.append(f"{layer.module}: {told}: every matrix must be of two axes")
        return
    sizes = []
    for whole, first, second in (("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a", "lokr_w2_b")):
        if whole in shapes:
            sizes.append(shapes[whole])
        elif first in shapes and second in shapes:
            sizes.append((shapes[first][0], shapes[second][1]))
        else:
            reading.problems.append(f"{layer.module}: lacks {whole}, or {first} and {second}")
            return
    (rows, columns), (inner_rows, inner_columns) = sizes
    wanted = {
        _LEAVES[leaf]: shape for leaf, shape in config.shapes(path, rows * inner_rows, columns * inner_columns).items()
    }
    if wanted != shapes:
        told, asked = (", ".join(f"{part} {list(shape)}" for part, shape in each.items()) for each in (shapes, wanted))
        reading.problems.append(f"{layer.module}: has {told}, and the config asks for {asked}")


def write_lokr(request: ExportRequest) -> None:
    """Write a LoKr delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    export = collected(request, _LEAVES, _KIND)
    config = request.delta.config
    own = {key: config[key] for key in ("decompose_both", "decompose_factor")}
    write_layers(request, export, "LOKR", {**ranked_fields(config, export), **own})
