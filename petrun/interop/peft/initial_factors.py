"""Read PiSSA and OLoRA adapters of peft as the variant "pissa": with the initial matrices beside A and B.

peft subtracts s B_0 A_0 from the base's weight when such an adapter is made, and again whenever it is loaded; A_0 and B_0 follow from
the weight:

    pissa: the largest singular triples (see petrun.delta.lora.pissa);   olora: W = Q R, B_0 = Q[:, :r], A_0 = R[:r]

The adapter's file holds A and B alone. A base from which the product was subtracted already, as peft saves it, has a lower rank, by
which it is recognised; on it the adapter is a plain LoRA. With OLoRA at a scale other than 1 the rank does not change: the base counts as
the one that the adapter was made from, as it does for peft.

Source: peft 0.21, tuners/lora/layer.py pissa_init and olora_init.
"""

from __future__ import annotations

import numpy as np

from petrun.delta.lora import LORA_A, LORA_A0, LORA_B, LORA_B0, LoraConfig
from petrun.delta.lora.pissa import principal_factors
from petrun.interop.peft.reading import Reading
from petrun.tensors import Array
from petrun.typing import JsonObject

_LOST = 1e-5
"""A singular value below this share of the largest is rounding, float32."""
_DOUBTFUL = 1e-3
"""... and below this one may be, in a narrower type."""


def with_initial_factors(reading: Reading, settings: JsonObject, init: str) -> JsonObject:
    """Return the settings of the variant "pissa", and add its A_0 and B_0 to the reading; those of a plain LoRA where they were subtracted
    from the base already. `init`: pissa or olora. Problems are added to the reading."""
    config = LoraConfig.model_validate(settings)
    paths = config.target or ()
    tied = {name.removesuffix(".weight") for pair in reading.shared.items() for name in pair}
    unfit = [path for path in paths if path in tied or (init == "olora" and reading.names[f"{path}.weight"].transpose)]
    tables = reading.sites.tables if reading.sites is not None else ()
    unfit += [path for path in paths if path in tables]
    if unfit:
        reading.problems.append(
            f"init_lora_weights {init} of {unfit[0]}: an embedding, a tied matrix, or olora of a Conv1D, whose base peft changes otherwise"
        )
        return settings
    # One matrix is in memory at a time; the smallest tells whether the base was changed already.
    narrow = min(paths, key=lambda path: min(_size(reading, path)), default=None)
    weight = None if narrow is None else _weight(reading, narrow, init)
    if narrow is None or weight is None:
        return settings
    left = _smallest(weight, config.site(narrow)[0])
    if left < _LOST:
        return settings
    if left < _DOUBTFUL:
        reading.problems.append(
            f"init_lora_weights {init}: whether it is taken off this base already cannot be told from {narrow}; give the base in "
            "float32, or set init_lora_weights to true in adapter_config.json where it is"
        )
        return settings
    for path in paths:
        rank, scale = config.site(path)
        weight = _weight(reading, path, init)
        if weight is not None:
            a, b = principal_factors(weight, rank, scale) if init == "pissa" else _orthogonal(weight, rank)
            reading.made[f"{path}.{LORA_A0}"], reading.made[f"{path}.{LORA_B0}"] = a, b
    return _as_pissa(settings, config)


def _size(reading: Reading, path: str) -> tuple[int, int]:
    """Return (out, in) of a layer, from the adapter's matrices."""
    shapes = reading.delta.shapes
    return shapes[reading.found[f"{path}.{LORA_B}"]][0], shapes[reading.found[f"{path}.{LORA_A}"]][1]


def _weight(reading: Reading, path: str, init: str) -> Array | None:
    return reading.base_value(f"{path}.weight", f"init_lora_weights {init}: what was taken off {path}")


def _as_pissa(settings: JsonObject, config: LoraConfig) -> JsonObject:
    """Write rsLoRA's scale as alphas, as petrun has one variant at a time."""
    if config.variant != "rslora":
        return {**settings, "variant": "pissa"}
    sites = {path: config.site(path) for path in config.target or ()}
    alphas = {path: scale * rank for path, (rank, scale) in sites.items()}
    return {**settings, "variant": "pissa", "alpha_pattern": alphas}


def _orthogonal(weight: Array, rank: int) -> tuple[Array, Array]:
    """Return A_0 (r, in) and B_0 (out, r) of OLoRA, float32."""
    q, r = np.linalg.qr(weight.astype(np.float32))
    return np.ascontiguousarray(r[:rank], np.float32), np.ascontiguousarray(q[:, :rank], np.float32)


def _smallest(weight: Array, rank: int) -> float:
    """Return the largest of the `rank` smallest singular values, as a share of the largest of all."""
    wide = weight.astype(np.float64)
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    return float(values[min(rank, len(values)) - 1] / (values[-1] or 1.0))
