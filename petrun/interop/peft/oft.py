"""Read and write peft's OFT adapters.

In the file (peft 0.21): `base_model.model.<module>.oft_R.weight` (blocks, size * (size - 1) / 2). Here:
`<path>.mindpet_delta_oft_r`, of the same shape. module_dropout acts in training alone, and petrun has none. Refused: coft, block_share, and
Cayley's transform without its series (use_cayley_neumann off), which compute something else.
"""

from __future__ import annotations

from petrun.checkpoint.delta import Delta
from petrun.delta.oft import OFT_R, OftConfig
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

_KIND = "OFT"
_AXES = {"oft_R": "(blocks, size * (size - 1) / 2)"}
_READ = ("r", "oft_block_size", "use_cayley_neumann", "num_cayley_neumann_terms")
# Of coft, of convolutions and of training.
_HARMLESS = ("eps", "module_dropout")


def read_oft(reading: Reading) -> Delta:
    """Convert an OFT adapter to a delta of OFT. Raises DeltaError as from_peft says."""
    fields = Fields(reading.delta.config)
    fields.refuse_others((*OF_EVERY_KIND, *_READ), _HARMLESS)
    fields.check_task()
    settings = {**_sizes(fields), "terms": fields.count("num_cayley_neumann_terms", 5)}
    if fields.raw.get("use_cayley_neumann", True) is not True:
        fields.problems.append("use_cayley_neumann: off is not supported: petrun computes the Neumann series")
    if settings["terms"] == 1:
        fields.problems.append("num_cayley_neumann_terms: 1 is not supported: such an adapter does nothing")
    targets = fields.targets()
    raise_fields(reading, fields, _KIND)
    layers = sorted_layers(reading, {OFT_R: "oft_R"})
    config = OftConfig.model_validate(settings)
    for layer in layers.values():
        shapes = shapes_of(reading, layer, _AXES)
        if shapes is None:
            continue
        ((blocks, count),) = shapes
        size = next((n for n in range(2, count + 2) if n * (n - 1) // 2 == count), 0)
        if not size or config.size(blocks * size) != size:
            asked = f"oft_block_size {config.block_size}" if config.blocks is None else f"r {config.blocks}"
            reading.problems.append(f"{layer.module}: oft_R is {[blocks, count]}, which {asked} does not give")
    check_layers(reading, layers, targets, _KIND)
    return reading.finish({**settings, "target": reading.in_order(layers)})


def _sizes(fields: Fields) -> dict[str, int | None]:
    """Read r, the number of blocks, or oft_block_size, their width: the other one is 0."""
    if not fields.raw.get("r"):
        return {"block_size": fields.count("oft_block_size", 32), "blocks": None}
    if fields.raw.get("oft_block_size"):
        fields.problems.append("r: stands beside oft_block_size, and one of them must be 0")
    return {"block_size": None, "blocks": fields.count("r", 1)}


def write_oft(request: ExportRequest) -> None:
    """Write an OFT delta as an adapter folder. Raises DeltaError and OutputError as write_peft says."""
    export = collected(request, {OFT_R: "oft_R.weight"}, _KIND)
    config = request.delta.config
    blocks, size = config.get("blocks"), config.get("block_size")
    own = {
        "r": blocks or 0,
        "oft_block_size": 0 if blocks else size or 32,
        "use_cayley_neumann": True,
        "num_cayley_neumann_terms": config["terms"],
        "bias": "none",
    }
    write_layers(request, export, "OFT", own)
