"""peft LoRA adapters.

In the file (peft 0.21): `base_model.model.<module>.lora_A.weight` (R, in) and `.lora_B.weight` (out, R),
for nn.Linear and for GPT-2's Conv1D alike; DoRA's `.lora_magnitude_vector` (out,); a trained head
`base_model.model.<module>.weight`. Here: `<path>.mindpet_delta_lora_a` (R, in), `_b` (out, R), `_m` (out,), and the head by its
parameter's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from petrun.checkpoint.delta import ADAPTER_CONFIG, LORA_A, LORA_B, LORA_M, Delta
from petrun.checkpoint.peft_lora_config import LoraAdapter, parse_lora_config
from petrun.checkpoint.peft_reading import PREFIX, Reading
from petrun.checkpoint.peft_writing import Order, by_module, collect, common_fields, compact, plain, write_folder
from petrun.checkpoint.pissa import as_plain_lora

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.(?!weight$)[^.]+)?\.weight")
# Before peft 0.12 a vector of its own, since then the weight of a module; in either form the adapter's name may stand in it.
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?")
_LEAVES = {LORA_A: "lora_A.weight", LORA_B: "lora_B.weight", LORA_M: "lora_magnitude_vector"}
_OURS = {"A": LORA_A, "B": LORA_B, "M": LORA_M}
_THEIRS = {"A": "lora_A", "B": "lora_B", "M": "lora_magnitude_vector"}
_UNSUPPORTED = (
    (re.compile(r".*\.lora_embedding_[AB](\..*)?"), "LoRA on an embedding"),
    (re.compile(r".*\.lora_B(\.[^.]+)?\.bias"), "lora_bias"),
    (re.compile(r".*trainable_tokens_.*"), "trainable_token_indices"),
)


def read_lora(reading: Reading) -> Delta:
    """A LoRA adapter -> algo "lora". Raises DeltaError as from_peft says."""
    delta = reading.delta
    config = parse_lora_config(str(delta.path / ADAPTER_CONFIG), delta.config)
    sorting = _Sorting(config, reading)
    for stored in delta.tensors:
        sorting.take(stored)
    layers = sorting.checked(delta.shapes)
    if not reading.problems:
        modules = {path: layer.module for path, layer in layers.items()}
        reading.check_complete(config.targets, modules, "its matrices")
    if not layers and not reading.problems:
        reading.problems.append("it holds no lora_A and lora_B tensors")
    reading.raise_problems()
    return reading.finish("lora", _house_config(config, layers))


def _house_config(config: LoraAdapter, layers: Mapping[str, _Layer]) -> dict[str, Any]:
    ranks = {path: config.rank_of(layer.module) for path, layer in layers.items()}
    alphas = {path: config.alpha_of(layer.module) for path, layer in layers.items()}
    alpha = config.alpha
    if config.dora and config.rslora:
        # One variant at a time here: DoRA with the alphas that give rsLoRA's scale.
        alpha *= math.sqrt(config.rank)
        alphas = {path: value * math.sqrt(ranks[path]) for path, value in alphas.items()}
    return {
        "rank": config.rank,
        "alpha": alpha,
        "dropout": config.dropout,
        "variant": "dora" if config.dora else "rslora" if config.rslora else "lora",
        "target": list(layers),
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
    }


@dataclass
class _Layer:
    module: str
    """Path in the adapter's own model: what the config's patterns speak of."""
    factors: dict[str, str] = field(default_factory=dict)
    """"A", "B" and DoRA's "M" -> name in the file."""


class _Sorting:
    """Sorts an adapter's tensors into layers and heads."""

    def __init__(self, config: LoraAdapter, reading: Reading) -> None:
        self.config = config
        self.reading = reading
        self.problems = reading.problems
        self._layers: dict[str, _Layer] = {}

    def take(self, stored: str) -> None:
        name = stored.removeprefix(PREFIX)
        unsupported = next((what for pattern, what in _UNSUPPORTED if pattern.fullmatch(name)), None)
        if name == stored:
            self.problems.append(f"{stored}: does not begin with {PREFIX}")
        elif unsupported:
            self.problems.append(f"{name}: {unsupported} is not supported")
        elif match := _FACTOR.fullmatch(name):
            self._factor(stored, match["module"], match["factor"])
        elif match := _MAGNITUDE.fullmatch(name):
            if self.config.dora:
                self._factor(stored, match["module"], "M")
            else:
                self.problems.append(f"{name}: has magnitudes, but use_dora is off")
        else:
            self.reading.whole(stored, name)

    def _factor(self, stored: str, module: str, factor: str) -> None:
        path = self.reading.layer(module, f"{_THEIRS[factor]} of {module}")
        if path is None:
            return
        layer = self._layers.setdefault(path, _Layer(module))
        if factor in layer.factors:
            self.problems.append(f"{stored} and {layer.factors[factor]} are the same matrix")
        layer.factors[factor] = stored
        self.reading.found[f"{path}.{_OURS[factor]}"] = stored

    def checked(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Layer]:
        """Layers with all their matrices, of agreeing shapes, in the net's order."""
        wanted = {"A", "B", "M"} if self.config.dora else {"A", "B"}
        for layer in self._layers.values():
            if set(layer.factors) != wanted:
                held = [_THEIRS[factor] for factor in sorted(layer.factors)]
                lacking = [_THEIRS[factor] for factor in sorted(wanted - set(layer.factors))]
                what = f"has {held[0]} alone" if len(held) == 1 else f"lacks {', '.join(lacking)}"
                self.problems.append(f"{layer.module}: {what}")
                continue
            a, b = shapes[layer.factors["A"]], shapes[layer.factors["B"]]
            rank = self.config.rank_of(layer.module)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                self.problems.append(f"{layer.module}: lora_A {list(a)} and lora_B {list(b)} do not multiply")
            elif self.config.dora and shapes[layer.factors["M"]] != (b[0],):
                self.problems.append(
                    f"{layer.module}: it has {b[0]} outputs, magnitudes {list(shapes[layer.factors['M']])}"
                )
            elif a[0] != rank:
                self.problems.append(f"{layer.module}: its rank is {a[0]}, the config says {rank}")
            elif self.config.targets.targets_module(layer.module) is False:
                self.problems.append(f"{layer.module}: has tensors, but target_modules does not name it")
            if self.config.alpha_of(layer.module) == 0:
                self.problems.append(f"{layer.module}: alpha is 0, so the adapter does nothing")
        return {path: self._layers[path] for path in self.reading.in_order(self._layers)}


def write_lora(order: Order) -> None:
    """A LoRA delta as an adapter folder; of PiSSA's, the plain LoRA that it is. Raises DeltaError and OutputError as write_peft says."""
    delta, names = as_plain_lora(order.delta), order.names
    export = collect(delta, names, _LEAVES)
    config = delta.config
    exported = {
        **common_fields("LORA", order.task, order.base, export.heads),
        "r": config["rank"],
        "lora_alpha": plain(config["alpha"]),
        "lora_dropout": config.get("dropout", 0.0),
        "use_rslora": config.get("variant") == "rslora",
        "use_dora": config.get("variant") == "dora",
        "bias": export.bias,
        "fan_in_fan_out": any(names[f"{path}.weight"].transpose for path in export.modules),
        "init_lora_weights": True,
        "target_modules": compact(set(export.modules.values()), names.values()),
        "modules_to_save": sorted(export.heads) or None,
        "rank_pattern": by_module(config.get("rank_pattern", {}), export.modules),
        "alpha_pattern": by_module(config.get("alpha_pattern", {}), export.modules),
    }
    write_folder(order.out, exported, export.entries)
