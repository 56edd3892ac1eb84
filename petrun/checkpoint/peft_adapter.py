"""peft LoRA adapter folders: adapter_config.json + adapter_model.safetensors, in and out.

In the file (peft 0.21): `base_model.model.<module>.lora_A.weight` (R, in) and `.lora_B.weight` (out, R),
for nn.Linear and for GPT-2's Conv1D alike; a trained head `base_model.model.<module>.weight`. Here:
`<path>.mindpet_delta_lora_a` (R, in), `_b` (out, R), and the head by its parameter's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from petrun.checkpoint.delta import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LORA_A, LORA_B, Delta
from petrun.checkpoint.lazy import LazyTensors
from petrun.checkpoint.peft_config import PeftConfig, parse_peft_config
from petrun.errors import DeltaError, did_you_mean, perhaps
from petrun.models.base import StoredName
from petrun.tensors import Array, TensorEntry, atomic_file, atomic_folder, write_safetensors

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.(?!weight$)[^.]+)?\.weight")
_UNSUPPORTED = (
    (re.compile(r".*\.lora_embedding_[AB](\..*)?"), "LoRA on an embedding"),
    (re.compile(r".*\.lora_magnitude_vector(\..*)?"), "DoRA"),
    (re.compile(r".*\.lora_B(\.[^.]+)?\.bias"), "lora_bias"),
    (re.compile(r".*trainable_tokens_.*"), "trainable_token_indices"),
)
_LISTED = 20


def from_peft(delta: Delta, names: Mapping[str, StoredName], prefixes: Sequence[str] = ("",)) -> Delta:
    """A peft adapter as read -> the same delta in the net's names, algo "lora".

    `names`: net parameter -> its Hugging Face name; `prefixes`: what a module's path may lack (an adapter
    trained on BertModel).
    Raises one DeltaError with everything in the config that is not supported, or every tensor that fits
    nothing, is missing its partner or contradicts the config; and for NaN or infinity.
    """
    place = str(delta.path / ADAPTER_CONFIG)
    config = parse_peft_config(place, delta.config)
    reading = _Reading(config, delta.tensors, names, prefixes)
    for stored in delta.tensors:
        reading.take(stored)
    shapes = delta.shapes
    layers = reading.layers(shapes)
    if not reading.problems:
        reading.check_complete(layers)
    if not layers and not reading.problems:
        reading.problems.append("it holds no lora_A and lora_B tensors")
    if reading.problems:
        more = [f"... and {len(reading.problems) - _LISTED} more"] if len(reading.problems) > _LISTED else []
        raise DeltaError(
            "\n  ".join([f"{delta.path}: this adapter does not fit:", *reading.problems[:_LISTED], *more]),
            hint="Check that --base is the model it was trained on, and that the adapter is complete.",
        )
    assert isinstance(delta.tensors, LazyTensors)
    # A whole matrix of GPT-2's Conv1D is stored (in, out).
    turned = {ours for ours in reading.found if ours in names and names[ours].transpose}
    tensors = delta.tensors.renamed(reading.found, turned)
    return replace(
        delta,
        tensors=tensors,
        algo="lora",
        config=_house_config(config, layers),
        digest=tensors.checked_digest(),
    )


def _house_config(config: PeftConfig, layers: Mapping[str, _Layer]) -> dict[str, Any]:
    ranks = {path: config.rank_of(layer.module) for path, layer in layers.items()}
    alphas = {path: config.alpha_of(layer.module) for path, layer in layers.items()}
    return {
        "rank": config.rank,
        "alpha": config.alpha,
        "dropout": config.dropout,
        "variant": "rslora" if config.rslora else "lora",
        "target": list(layers),
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {path: alpha for path, alpha in alphas.items() if alpha != config.alpha},
    }


@dataclass
class _Layer:
    module: str
    """Path in the adapter's own model: what the config's patterns speak of."""
    factors: dict[str, str] = field(default_factory=dict)
    """"A" and "B" -> name in the file."""


class _Reading:
    """Sorts an adapter's tensors into layers and heads; collects what does not fit."""

    def __init__(
        self,
        config: PeftConfig,
        tensors: Mapping[str, Array],
        names: Mapping[str, StoredName],
        prefixes: Sequence[str],
    ) -> None:
        self.config = config
        self.tensors = tensors
        self.names = names
        self.prefixes = ("", *(p for p in prefixes if p))
        self.ours = {stored.name: ours for ours, stored in names.items()}
        self.tied = {again: ours for ours, stored in names.items() for again in stored.also}
        self.found: dict[str, str] = {}
        """Name in the net -> name in the file."""
        self.problems: list[str] = []
        self._layers: dict[str, _Layer] = {}

    def take(self, stored: str) -> None:
        name = stored.removeprefix(_PREFIX)
        unsupported = next((what for pattern, what in _UNSUPPORTED if pattern.fullmatch(name)), None)
        if name == stored:
            self.problems.append(f"{stored}: does not begin with {_PREFIX}")
        elif unsupported:
            self.problems.append(f"{name}: {unsupported} is not supported")
        elif match := _FACTOR.fullmatch(name):
            self._factor(stored, match["module"], match["factor"])
        else:
            self._whole(stored, name)

    def _resolve(self, name: str) -> str | None:
        return next((self.ours[p + name] for p in self.prefixes if p + name in self.ours), None)

    def _factor(self, stored: str, module: str, factor: str) -> None:
        parameter = self._resolve(f"{module}.weight")
        if parameter is None:
            self._unknown(f"{module}.weight", f"lora_{factor} of {module}")
            return
        path = parameter.removesuffix(".weight")
        layer = self._layers.setdefault(path, _Layer(module))
        if factor in layer.factors:
            self.problems.append(f"{stored} and {layer.factors[factor]} are the same matrix")
        layer.factors[factor] = stored
        self.found[f"{path}.{LORA_A if factor == 'A' else LORA_B}"] = stored

    def _whole(self, stored: str, name: str) -> None:
        """A head of modules_to_save, or a bias. The file may or may not keep peft's wrappers in the name,
        and may hold a tensor under both names; `original_module` is the base's own."""
        if ".original_module." in name:
            return
        plain = re.sub(r"\.modules_to_save(?:\.[^.]+(?=\.))?(?=\.)", "", name).replace(".base_layer.", ".")
        parameter = self._resolve(plain)
        if parameter is None:
            self._unknown(plain, plain)
        elif self.names[parameter].also:
            self.problems.append(
                f"{plain}: a trained copy of a matrix that the base shares with its head is not supported"
            )
        elif parameter not in self.found:
            self.found[parameter] = stored
        elif not np.array_equal(self.tensors[stored], self.tensors[self.found[parameter]]):
            self.problems.append(f"{stored} and {self.found[parameter]} are the same parameter, with other values")

    def _unknown(self, name: str, shown: str) -> None:
        tied = next((self.tied[p + name] for p in self.prefixes if p + name in self.tied), None)
        if tied:
            self.problems.append(f"{shown}: the base shares this matrix with {self.names[tied].name}: not supported")
        else:
            self.problems.append(f"{shown}: the base has no such layer. {perhaps(name, self.ours)}".rstrip())

    def layers(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Layer]:
        """Layers with both matrices of agreeing shapes, in the net's order."""
        order = {parameter.removesuffix(".weight"): i for i, parameter in enumerate(self.names)}
        for layer in self._layers.values():
            if set(layer.factors) != {"A", "B"}:
                lone = next(iter(layer.factors))
                self.problems.append(f"{layer.module}: has lora_{lone} alone")
                continue
            a, b = shapes[layer.factors["A"]], shapes[layer.factors["B"]]
            rank = self.config.rank_of(layer.module)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                self.problems.append(f"{layer.module}: lora_A {list(a)} and lora_B {list(b)} do not multiply")
            elif a[0] != rank:
                self.problems.append(f"{layer.module}: its rank is {a[0]}, the config says {rank}")
            elif self.config.targets_module(layer.module) is False:
                self.problems.append(f"{layer.module}: has tensors, but target_modules does not name it")
            if self.config.alpha_of(layer.module) == 0:
                self.problems.append(f"{layer.module}: alpha is 0, so the adapter does nothing")
        return dict(sorted(self._layers.items(), key=lambda item: order[item[0]]))

    def check_complete(self, layers: Mapping[str, _Layer]) -> None:
        """What the config adapts or saves must be in the file: peft would fill it from its random numbers."""
        shortest = self._shortest(layers)
        for parameter, stored in self.names.items():
            module, _, leaf = stored.name.removeprefix(shortest).rpartition(".")
            if self.config.is_saved(module):
                if parameter not in self.found:
                    self.problems.append(f"{module}.{leaf}: modules_to_save names it, but the file lacks it")
            elif (
                leaf == "weight"
                and not stored.optional
                and self.config.targets_module(module)
                and parameter.removesuffix(".weight") not in layers
            ):
                self.problems.append(f"{module}: target_modules names it, but the file lacks its matrices")

    def _shortest(self, layers: Mapping[str, _Layer]) -> str:
        """The prefix that this adapter's paths lack."""
        for path, layer in layers.items():
            return self.names[f"{path}.weight"].name.removesuffix(f"{layer.module}.weight")
        return ""


def write_peft(
    delta: Delta,
    names: Mapping[str, StoredName],
    out: Path,
    *,
    task: str | None = None,
    base: str | None = None,
) -> None:
    """Write a LoRA delta as an adapter folder that peft loads. `out` must not exist or be empty.

    `task`: petrun's (classify, lm, instruct), for peft's task_type; `base`: what peft is to load the base
    from.
    Raises DeltaError where the delta is not LoRA or trains part of a module (peft saves modules whole);
    OutputError.
    """
    if delta.algo != "lora":
        raise DeltaError(f"{delta.path}: is a {delta.algo} delta; only lora has a peft form here")
    export = _export(delta, names)
    config = delta.config
    exported = {
        "peft_type": "LORA",
        "task_type": _task_type(task, export.heads),
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": config["rank"],
        "lora_alpha": _plain(config["alpha"]),
        "lora_dropout": config.get("dropout", 0.0),
        "use_rslora": config.get("variant") == "rslora",
        "bias": export.bias,
        "fan_in_fan_out": any(names[f"{path}.weight"].transpose for path in export.modules),
        "init_lora_weights": True,
        "target_modules": _compact(set(export.modules.values()), names.values()),
        "modules_to_save": sorted(export.heads) or None,
        "rank_pattern": _by_module(config.get("rank_pattern", {}), export.modules),
        "alpha_pattern": _by_module(config.get("alpha_pattern", {}), export.modules),
    }
    with atomic_folder(out) as folder:
        write_safetensors(folder / ADAPTER_WEIGHTS, export.entries, {"format": "pt"})
        with atomic_file(folder / ADAPTER_CONFIG) as (file, _):
            file.write((json.dumps(exported, indent=2) + "\n").encode())


def _task_type(task: str | None, heads: set[str]) -> str | None:
    """peft's SEQ_CLS insists on a trained classifier in the file; without one the adapter is of no declared task."""
    if task == "classify":
        return "SEQ_CLS" if heads & {"classifier", "score"} else None
    return "CAUSAL_LM" if task in ("lm", "instruct") else None


@dataclass
class _Export:
    """An adapter being put together."""

    modules: dict[str, str] = field(default_factory=dict)
    """Path -> module of the adapted layers."""
    heads: set[str] = field(default_factory=set)
    """Modules saved whole."""
    bias: str = "none"
    entries: list[TensorEntry] = field(default_factory=list)


def _export(delta: Delta, names: Mapping[str, StoredName]) -> _Export:
    export = _Export()
    owned = {name: f"{name.rpartition('.')[0]}.weight" if _is_factor(name) else name for name in delta.tensors}
    for name, parameter in owned.items():
        if parameter not in names:
            raise DeltaError(f"{delta.path}: {name} has no Hugging Face name", hint=did_you_mean(parameter, names))
        if _is_factor(name):
            export.modules[name.rpartition(".")[0]] = names[parameter].name.rpartition(".")[0]
    adapted = set(export.modules.values())
    for name, parameter in owned.items():
        module, _, leaf = names[parameter].name.rpartition(".")
        if _is_factor(name):
            stored = f"{module}.lora_{'A' if name.endswith(LORA_A) else 'B'}.weight"
        elif module in adapted:
            stored = f"{module}.base_layer.{leaf}"
            export.bias = "lora_only" if leaf == "bias" and export.bias == "none" else export.bias
        elif leaf == "bias" and not any(s.name == f"{module}.weight" and p in delta.tensors for p, s in names.items()):
            stored, export.bias = f"{module}.{leaf}", "all"
        else:
            stored = f"{module}.{leaf}"
            export.heads.add(module)
        turned = not _is_factor(name) and names[parameter].transpose
        shape = tuple(reversed(delta.shapes[name])) if turned else delta.shapes[name]
        export.entries.append(TensorEntry(_PREFIX + stored, shape, "float32", partial(_oriented, delta, name, turned)))
    for parameter, stored_name in names.items():
        if stored_name.name.rpartition(".")[0] in export.heads and parameter not in delta.tensors:
            raise DeltaError(
                f"{delta.path}: lacks {stored_name.name}, though it trains its module; peft saves them whole",
                hint="Train the whole module, or keep the delta in petrun's own format.",
            )
    return export


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] in (LORA_A, LORA_B)


def _oriented(delta: Delta, name: str, turned: bool) -> Array:
    values = delta.tensors[name]
    return np.ascontiguousarray(values.T) if turned else values


def _compact(modules: set[str], stored: Iterable[StoredName]) -> list[str]:
    """The shortest names that mean exactly these modules: their leaf names, or else their whole paths."""
    leaves = {module.rpartition(".")[2] for module in modules}
    everywhere = {s.name.removesuffix(".weight") for s in stored if s.name.endswith(".weight")}
    alike = {module for module in everywhere if module.rpartition(".")[2] in leaves}
    return sorted(leaves if alike == modules else modules)


def _by_module(pattern: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    return {f"^{re.escape(modules[path])}": _plain(value) for path, value in pattern.items() if path in modules}


def _plain(value: Any) -> Any:
    """16.0 as 16: peft's alpha is an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
