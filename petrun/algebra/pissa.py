"""Write a PiSSA delta as a plain LoRA: B A - B_0 A_0 = [B, -B_0] [A; A_0], of twice the rank and the same scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.delta.lora import LORA_A, LORA_A0, LORA_B, LORA_B0
from petrun.tensors import Array
from petrun.typing import JsonObject


def as_plain_lora(delta: Delta) -> Delta:
    """Return the LoRA delta without PiSSA's initial matrices: A (2 R, in), B (out, 2 R). Any other variant passes unchanged."""
    if delta.config.get("variant") != "pissa":
        return delta
    tensors: dict[str, Array] = {}
    for name in delta.tensors:
        path, _, leaf = name.rpartition(".")
        if leaf == LORA_A:
            tensors[name] = np.concatenate((delta.tensors[name], delta.tensors[f"{path}.{LORA_A0}"]), 0)
        elif leaf == LORA_B:
            tensors[name] = np.concatenate((delta.tensors[name], -delta.tensors[f"{path}.{LORA_B0}"]), 1)
        elif leaf not in (LORA_A0, LORA_B0):
            tensors[name] = delta.tensors[name]
    return replace(delta, tensors=tensors, config=_doubled(delta.config), digest=arrays_digest(tensors))


def _doubled(config: JsonObject) -> JsonObject:
    """Double rank and alpha, so that alpha / rank stays."""
    patterns = {
        key: {path: 2 * value for path, value in config.get(key, {}).items()}
        for key in ("rank_pattern", "alpha_pattern")
    }
    return {**config, "variant": "lora", "rank": 2 * config["rank"], "alpha": 2 * config["alpha"], **patterns}
