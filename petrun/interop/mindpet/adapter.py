"""Read the settings of MindPet's adapters: widths from the shapes; the activation is in no checkpoint, so it is MindPet's default, gelu.

`<dense>.mindpet_delta_adapter.mindpet_delta_adapter_block.mindpet_delta_adapter_{down,up}_sampler.{weight,bias}` and
`<dense>.mindpet_delta_low_rank_adapter.mindpet_delta_low_rank_adapter_{down,up}_sampler.{..._weight_left,..._weight_right,bias}` are
petrun's names as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from petrun.errors import DeltaError
from petrun.tensors.known_names import DELTA_PREFIX
from petrun.typing import JsonObject

_BLOCK = "mindpet_delta_adapter.mindpet_delta_adapter_block."
_DOWN = "mindpet_delta_adapter_down_sampler.weight"
_LOW_RANK = "mindpet_delta_low_rank_adapter."
_LOW_RANK_DOWN = "mindpet_delta_low_rank_adapter_down_sampler.mindpet_delta_low_rank_adapter_weight_"

Shapes = Mapping[str, tuple[int, ...]]


def adapter_settings(source: str, shapes: Shapes, alpha: float | None = None) -> JsonObject:
    """Return the settings of adapters for these tensors, in today's names. Raises DeltaError."""
    paths = _layers(source, shapes, _BLOCK, "AdapterDense")
    downs = {path: _matrix(source, shapes, _at(path) + _BLOCK + _DOWN) for path in paths}
    return {
        "bottleneck": _one(source, "bottleneck", {path: down[0] for path, down in downs.items()}),
        "target": paths,
    }


def low_rank_adapter_settings(source: str, shapes: Shapes, alpha: float | None = None) -> JsonObject:
    """Return the settings of low-rank adapters for these tensors, in today's names. Raises DeltaError."""
    paths = _layers(source, shapes, _LOW_RANK, "LowRankAdapterDense")
    ranks, widths = {}, {}
    for path in paths:
        start = _at(path) + _LOW_RANK + _LOW_RANK_DOWN
        left, right = _matrix(source, shapes, f"{start}left"), _matrix(source, shapes, f"{start}right")
        ranks[path], widths[path] = left[1], (left[0], right[1])
    return {
        "reduction_factor": _factor(source, widths),
        "low_rank_size": _one(source, "rank", ranks),
        "target": paths,
    }


def _at(path: str) -> str:
    return f"{path}." if path else ""


def _layers(path: str, shapes: Shapes, block: str, cell: str) -> list[str]:
    """Return the paths of the linear layers that the adapters follow."""
    marked = [name for name in shapes if DELTA_PREFIX in name]
    loose = [name for name in marked if not f".{name}".count(f".{block}")]
    if loose:
        raise DeltaError(
            f"{path}: {loose[0]} is part of an adapter that the model has by itself, not of {cell} in the place of a linear layer",
            hint="Load the file into that model with mindspore.load_param_into_net.",
        )
    paths = {f".{name}".partition(f".{block}")[0].removeprefix(".") for name in marked}
    return sorted(paths)


def _matrix(path: str, shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise DeltaError(f"{path}: lacks {name}", hint="The file is incomplete.")
    if len(shape) != 2:
        raise DeltaError(f"{path}: {name} is {list(shape)}, not a matrix")
    return shape


def _one(source: str, what: str, values: Mapping[str, int]) -> int:
    """Return the value that all layers share. Raises DeltaError where they differ."""
    first, value = next(iter(values.items()))
    other = next((path for path, v in values.items() if v != value), None)
    if other is not None:
        raise DeltaError(
            f"{source}: the {what} of {first} is {value}, of {other} {values[other]}; petrun's adapters share one",
            hint="Load the file into the model it was trained in with mindspore.load_param_into_net.",
        )
    return value


def _factor(source: str, widths: Mapping[str, tuple[int, int]]) -> int:
    """Return the integer f with bottleneck = width // f in every layer. Raises DeltaError where there is none."""
    low = max(width // (narrow + 1) + 1 for width, narrow in widths.values())
    high = min(width // narrow for width, narrow in widths.values())
    if low > high:
        told = ", ".join(f"{path or 'the net itself'} {narrow} of {width}" for path, (width, narrow) in widths.items())
        raise DeltaError(f"{source}: no reduction factor gives these bottlenecks: {told}")
    return high
