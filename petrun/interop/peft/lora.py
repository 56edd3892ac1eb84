"""Read and write peft's LoRA adapters.

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

from petrun.algebra.pissa import as_plain_lora
from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.delta.lora import LORA_A, LORA_B, LORA_BIAS, LORA_M
from petrun.interop.peft.initial_factors import with_initial_factors
from petrun.interop.peft.lora_config import LoraAdapter, parse_lora_config
from petrun.interop.peft.reading import PREFIX, Reading
from petrun.interop.peft.rows import TokenRows, split_rows
from petrun.interop.peft.tokens import replace_rows
from petrun.interop.peft.writing import ExportRequest, by_module, collect, common_fields, compact, plain, write_folder
from petrun.typing import JsonObject

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.(?!weight$)[^.]+)?\.weight")
# A vector of its own before peft 0.12, the weight of a module since; the adapter's name may be part of either name.
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?")
_BIAS = re.compile(r"(?P<module>.+)\.lora_B(?:\.[^.]+)?\.bias")
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.[^.]+)?")
_LEAVES = {
    LORA_A: "lora_A.weight",
    LORA_B: "lora_B.weight",
    LORA_BIAS: "lora_B.bias",
    LORA_M: "lora_magnitude_vector",
}
_OURS = {"A": LORA_A, "B": LORA_B, "C": LORA_BIAS, "M": LORA_M}
_THEIRS = {"A": "lora_A", "B": "lora_B", "C": "lora_B.bias", "M": "lora_magnitude_vector"}
# For an embedding: A (R, V) and B (H, R), the transposes of a linear layer's B and A.
_TABLE_FACTOR = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<factor>[AB])(?:\.[^.]+)?")


def read_lora(reading: Reading) -> Delta:
    """Convert a LoRA adapter to a delta of LoRA. Raises DeltaError as from_peft says."""
    delta = reading.delta
    config = parse_lora_config(str(delta.path / ADAPTER_CONFIG), delta.config)
    sorting = _Sorting(config, reading)
    for stored in delta.tensors:
        sorting.take(stored)
    layers = sorting.checked(delta.shapes)
    replace_rows(reading, config.tokens, sorting.tokens)
    if not reading.problems:
        modules = {path: layer.module for path, layer in layers.items()}
        reading.check_complete(config.targets, modules, "its matrices")
    if not layers and not reading.problems:
        reading.problems.append("it holds no lora_A and lora_B tensors")
    reading.raise_problems()
    settings = _lora_settings(config, layers)
    if config.init:
        settings = with_initial_factors(reading, settings, config.init)
    return reading.finish(settings)


def _lora_settings(config: LoraAdapter, layers: Mapping[str, _Layer]) -> JsonObject:
    ranks = {path: config.ranks.rank_of(layer.module) for path, layer in layers.items()}
    alphas = {path: config.ranks.alpha_of(layer.module) for path, layer in layers.items()}
    alpha = config.ranks.alpha
    if config.dora and config.rslora:
        # petrun has one variant at a time: DoRA with the alphas that give rsLoRA's scale.
        alpha *= math.sqrt(config.ranks.rank)
        alphas = {path: value * math.sqrt(ranks[path]) for path, value in alphas.items()}
    return {
        "rank": config.ranks.rank,
        "alpha": alpha,
        "dropout": config.dropout,
        "variant": "dora" if config.dora else "rslora" if config.rslora else "lora",
        "target": list(layers),
        **({"bias": True} if config.bias else {}),
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != config.ranks.rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
    }


@dataclass
class _Layer:
    module: str
    """Path in the adapter's own model, which the config's patterns match."""
    factors: dict[str, str] = field(default_factory=dict)
    """"A", "B" and DoRA's "M" -> name in the file."""


class _Sorting:
    """Sorts an adapter's tensors into layers and heads."""

    def __init__(self, config: LoraAdapter, reading: Reading) -> None:
        self.config = config
        self.reading = reading
        self.problems = reading.problems
        self.tables = reading.sites.tables if reading.sites is not None else ()
        self._layers: dict[str, _Layer] = {}
        self.tokens: dict[str, str] = {}
        """Module -> name in the file of the rows of its matrix that were trained."""

    def take(self, stored: str) -> None:
        name = stored.removeprefix(PREFIX)
        if name == stored:
            self.problems.append(f"{stored}: does not begin with {PREFIX}")
        elif match := _FACTOR.fullmatch(name):
            self._factor(stored, match["module"], match["factor"])
        elif match := _TABLE_FACTOR.fullmatch(name):
            self._factor(stored, match["module"], {"A": "B", "B": "A"}[match["factor"]], table=True)
        elif match := _BIAS.fullmatch(name):
            if self.config.bias:
                self._factor(stored, match["module"], "C")
            else:
                self.problems.append(f"{name}: is a bias of B, but lora_bias is off")
        elif match := _TOKENS.fullmatch(name):
            self.tokens[match["module"]] = stored
        elif match := _MAGNITUDE.fullmatch(name):
            if self.config.dora:
                self._factor(stored, match["module"], "M")
            else:
                self.problems.append(f"{name}: has magnitudes, but use_dora is off")
        else:
            self.reading.full_tensor(stored, name)

    def _factor(self, stored: str, module: str, factor: str, *, table: bool = False) -> None:
        path = self.reading.layer(module, f"{_THEIRS[factor]} of {module}")
        if path is None:
            return
        if table != (path in self.tables):
            self.problems.append(f"{stored}: {module} is {'a linear layer' if table else 'an embedding'}")
        if table:
            self.reading.transposed.add(f"{path}.{_OURS[factor]}")
        layer = self._layers.setdefault(path, _Layer(module))
        if factor in layer.factors:
            self.problems.append(f"{stored} and {layer.factors[factor]} are the same matrix")
        layer.factors[factor] = stored
        self.reading.found[f"{path}.{_OURS[factor]}"] = stored

    def checked(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Layer]:
        """Return the layers with all their matrices, of matching shapes, in the net's order."""
        for path, layer in self._layers.items():
            # peft's embeddings have no bias.
            biased = self.config.bias and path not in self.tables
            wanted = {"A", "B"} | ({"M"} if self.config.dora else set()) | ({"C"} if biased else set())
            if path in self.tables and self.config.dora:
                self.problems.append(f"{layer.module}: use_dora on an embedding is not supported")
                continue
            if set(layer.factors) != wanted:
                held = [_THEIRS[factor] for factor in sorted(layer.factors)]
                lacking = [_THEIRS[factor] for factor in sorted(wanted - set(layer.factors))]
                what = f"has {held[0]} alone" if len(held) == 1 else f"lacks {', '.join(lacking)}"
                self.problems.append(f"{layer.module}: {what}")
                continue
            a, b = (tuple(shapes[layer.factors[factor]]) for factor in "AB")
            if path in self.tables:
                a, b = a[::-1], b[::-1]
            rank = self.config.ranks.rank_of(layer.module)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                self.problems.append(f"{layer.module}: lora_A {list(a)} and lora_B {list(b)} do not multiply")
            elif self.config.dora and shapes[layer.factors["M"]] != (b[0],):
                self.problems.append(
                    f"{layer.module}: it has {b[0]} outputs, magnitudes {list(shapes[layer.factors['M']])}"
                )
            elif biased and shapes[layer.factors["C"]] != (b[0],):
                self.problems.append(
                    f"{layer.module}: it has {b[0]} outputs, lora_B.bias is {list(shapes[layer.factors['C']])}"
                )
            elif a[0] != rank:
                self.problems.append(f"{layer.module}: its rank is {a[0]}, the config says {rank}")
            elif not self._is_tied(path) and self.config.targets.targets_module(layer.module) is False:
                self.problems.append(f"{layer.module}: has tensors, but target_modules does not name it")
            if self.config.ranks.alpha_of(layer.module) == 0:
                self.problems.append(f"{layer.module}: alpha is 0, so the adapter does nothing")
        self._check_tied()
        return {path: self._layers[path] for path in self.reading.in_order(self._layers)}

    def _is_tied(self, path: str) -> bool:
        """Return whether ensure_weight_tying holds: peft names the embedding alone as a target, and adapts the head that shares its
        matrix too.
        """
        ours = self.reading.shared.get(f"{path}.weight", "")
        return self.reading.ties_targets and ours.removesuffix(".weight") in self._layers

    def _check_tied(self) -> None:
        for own, ours in self.reading.shared.items():
            first, second = ours.removesuffix(".weight"), own.removesuffix(".weight")
            if self.reading.ties_targets and first in self._layers and second not in self._layers:
                self.problems.append(f"{second}: ensure_weight_tying is on, and the file lacks its matrices")


def write_lora(request: ExportRequest) -> None:
    """Write a LoRA delta as an adapter folder; PiSSA's as a plain LoRA. Raises DeltaError and OutputError as write_peft says."""
    names = request.names
    kept, rows = split_rows(request.delta, names)
    delta = as_plain_lora(kept)
    export = collect(delta, names, _LEAVES, tables=request.sites.tables if request.sites else ())
    config = delta.config
    exported = {
        **common_fields("LORA", request, export.heads),
        "r": config["rank"],
        "lora_alpha": plain(config["alpha"]),
        "lora_dropout": config.get("dropout", 0.0),
        "use_rslora": config.get("variant") == "rslora",
        "use_dora": config.get("variant") == "dora",
        "bias": export.bias,
        **({"lora_bias": True} if config.get("bias") else {}),
        "fan_in_fan_out": any(names[f"{path}.weight"].transpose for path in export.modules),
        "init_lora_weights": True,
        "target_modules": compact(set(export.modules.values()), names.values()),
        "modules_to_save": sorted(export.heads) or None,
        "rank_pattern": by_module(config.get("rank_pattern", {}), export.modules),
        "alpha_pattern": by_module(config.get("alpha_pattern", {}), export.modules),
        **({"trainable_token_indices": _token_indices(rows)} if rows.ids else {}),
    }
    write_folder(request.out, exported, [*export.entries, *rows.entries(request.delta, "token_adapter.")])


def _token_indices(rows: TokenRows) -> object:
    """Return peft's field: ids of the token embedding, or a map where the head has rows of its own."""
    modules = [module.rpartition(".")[2] for module in rows.modules]
    return rows.ids if len(modules) == 1 else {module: rows.ids for module in modules}
