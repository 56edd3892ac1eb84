"""Measure how far training has changed a net: the update of every layer's weight, and the change of every other trained parameter.

Norms are Frobenius norms. No (out, in) matrix is formed: products stay as factors, other updates are computed by blocks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mindspore as ms
import numpy as np

from petrun.algebra.plain_lora import adds_products, layers
from petrun.checkpoint.delta import Delta
from petrun.delta import method_of_tensor
from petrun.graph.freeze import Trainable
from petrun.graph.packed_weight import weight_rows
from petrun.graph.surgery import cells
from petrun.inference.assembly import Assembled, values_of
from petrun.tensors import Array
from petrun.typing import Parameter

_SAMPLE = 65536
"""Number of initial values that are kept of a parameter: all of most deltas' parameters, a share of a fully trained matrix."""


@dataclass(frozen=True, kw_only=True)
class UpdateNorm:
    """Holds how far one layer or parameter was changed."""

    name: str
    kind: Literal["update", "trained", "head"]
    """The update of a layer's weight; a parameter of the delta; one that trains beside the delta (a head)."""
    norm: float
    """Norm of the update, or of the parameter's change since the first step."""
    base: float
    """Norm of the base's weight, or of the parameter before the first step."""
    sampled: bool = False
    """Both are estimates from 65,536 of the parameter's values."""

    @property
    def ratio(self) -> float | None:
        """norm / base; None over a base of zeros."""
        return self.norm / self.base if self.base else None


FirstValues = Mapping[str, Array]
"""Name of a trained parameter -> (a sample of) its values before the first step."""


def first_values(trainable: Trainable) -> FirstValues:
    """Copy the values of the parameters that train. Call it before the first step, and before a training state is restored."""
    return {p.name: np.array(_sample(p)) for p in trainable.parameters}


def update_norms(assembled: Assembled, trainable: Trainable, first: FirstValues) -> list[UpdateNorm]:
    """Measure layers, then trained parameters that are not part of a layer's update, in the net's order."""
    factors = [name for name in assembled.attached if _belongs_to_update(name)]
    found = list(_updates(assembled, factors)) if factors else []
    parts, heads = set(factors), set(assembled.heads)
    for parameter in trainable.parameters:
        name = parameter.name
        if name not in parts:
            before, after = first[name].astype(np.float64), _sample(parameter).astype(np.float64)
            scale = math.sqrt(parameter.size / max(1, before.size))
            found.append(
                UpdateNorm(
                    name=name,
                    kind="head" if name in heads else "trained",
                    norm=float(np.linalg.norm(after - before)) * scale,
                    base=float(np.linalg.norm(before)) * scale,
                    sampled=before.size < parameter.size,
                )
            )
    return found


def unchanged(assembled: Assembled, trainable: Trainable, first: FirstValues) -> list[str]:
    """Return the delta's own trained parameters that still have their first values, bit-exact (for a large one: in the sample)."""
    own = set(assembled.attached)
    return [p.name for p in trainable.parameters if p.name in own and np.array_equal(_sample(p), first[p.name])]


def _belongs_to_update(name: str) -> bool:
    method = method_of_tensor(name)
    return method is not None and method.merge is not None


def _updates(assembled: Assembled, factors: list[str]) -> Iterator[UpdateNorm]:
    """Measure the update of every layer's weight that has factors."""
    method, config = assembled.method, assembled.config
    # Found by the layer: of two layers that share a matrix only one has it under its own name.
    table = cells(assembled.loaded.net)
    tensors = values_of(assembled.loaded.net, factors)
    delta = Delta(Path(method.name), tensors, algo=method.name, config=config.model_dump(mode="json"))
    if adds_products(delta):
        for path, layer in layers(delta).items():
            base = sum(_sum_of_squares(rows) for _, rows in weight_rows(table[path]))
            yield UpdateNorm(name=path, kind="update", norm=layer.update.norm(), base=math.sqrt(base))
        return
    assert method.merge is not None, "what scales a layer merges"
    update = method.merge(config, tensors)
    for path in dict.fromkeys(name.rpartition(".")[0] for name in factors):
        added = base = 0.0
        for rows, values in weight_rows(table[path]):
            base += _sum_of_squares(values)
            added += _sum_of_squares(update(f"{path}.weight", values, rows) - values)
        yield UpdateNorm(name=path, kind="update", norm=math.sqrt(added), base=math.sqrt(base))


def _sum_of_squares(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _array(parameter: Parameter) -> Array:
    # numpy has no bfloat16.
    wide = parameter.value().astype(ms.float32) if parameter.dtype == ms.bfloat16 else parameter
    values: Array = wide.asnumpy()
    return values


def _sample(parameter: Parameter) -> Array:
    """Return (at most 65,536,) float32: values at equal distances, which share no factor with the matrix's width."""
    flat = _array(parameter).reshape(-1)
    step = -(-flat.size // _SAMPLE)
    if step > 1:
        while math.gcd(step, int(parameter.shape[-1])) > 1:
            step += 1
    values: Array = flat[::step].astype(np.float32)
    return values
