"""Read a folder of sentence-transformers: modules.json and the modules that it lists, each with its settings.

    Transformer   a model of the families bert and roberta
    Pooling       mean, cls, max, mean_sqrt_len_tokens or lasttoken, or several of them side by side
    Dense         activation(W x + b), as LaBSE has it
    Normalize     x / |x|

Any other module, and any setting that changes the numbers and is not read here, is an error: a vector of another model is worse than none.
Source: sentence-transformers 6.2, its modules Transformer, Pooling, Dense and Normalize.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from petrun.errors import ModelError, WeightsError, did_you_mean
from petrun.tensors import Array
from petrun.tensors.reader import open_tensors
from petrun.typing import JsonObject

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken")
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """activation(W x + b) over sentence vectors."""

    weight: Array
    """(out, in) float32."""
    bias: Array | None
    activation: str

    def __call__(self, vectors: Array) -> Array:
        found = vectors @ self.weight.T
        return _ACTIVATIONS[self.activation](found if self.bias is None else found + self.bias)


@dataclass(frozen=True, kw_only=True)
class SentenceFolder:
    """What a folder says about its encoder."""

    base: Path
    """Folder of the model and its tokenizer."""
    poolings: tuple[str, ...]
    dense: tuple[DenseLayer, ...] = field(repr=False)
    normalizes: bool
    longest: int | None
    """Most tokens of a text; None: the model's positions."""
    lower: bool
    """Texts are made lower case before the tokenizer sees them."""
    prompt: str = ""
    """Text before every text, where the folder names a default."""


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read the folder. Raises ModelError for one without modules.json and for modules and settings that are not known; WeightsError."""
    listed = folder / "modules.json"
    if not listed.is_file():
        raise ModelError(
            f"{folder}: has no modules.json, so it is no folder of sentence-transformers",
            hint="It says how the vectors of tokens become one: SentenceTransformer(...).save(FOLDER) writes it.",
        )
    modules = _json(listed)
    if not isinstance(modules, list) or not all(
        isinstance(one, dict) and {"type", "path"} <= one.keys() for one in modules
    ):
        raise ModelError(f"{listed}: expected a list of modules with type and path")
    kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
    paths = [folder / str(one["path"]) for one in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise ModelError(
                f"{listed}: the module {kind} is not known",
                hint=did_you_mean(kind, ("Transformer", "Pooling", "Dense", "Normalize")),
            )
    middle = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(middle) - {"Dense"}:
        raise ModelError(
            f"{listed}: the modules are {', '.join(kinds)}; expected Transformer, Pooling, then Dense where there are any, then Normalize"
        )
    settings = _optional(paths[0] / "sentence_bert_config.json")
    longest = settings.get("max_seq_length")
    return SentenceFolder(
        base=paths[0],
        poolings=_poolings(paths[1] / "config.json"),
        dense=tuple(_dense(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Dense"),
        normalizes=kinds[-1] == "Normalize",
        longest=longest if isinstance(longest, int) else None,
        lower=bool(settings.get("do_lower_case", False)),
        prompt=_prompt(_optional(folder / "config_sentence_transformers.json")),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _optional(path: Path) -> JsonObject:
    found = _json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _poolings(path: Path) -> tuple[str, ...]:
    """Return the ways of pooling, in the order of their parts of the vector."""
    raw = _optional(path)
    stated = raw.get("pooling_mode")
    if stated is None:
        names = [name for key, name in _LEGACY.items() if raw.get(key)]
    else:
        names = [stated] if isinstance(stated, str) else list(stated)
    if not names:
        raise ModelError(f"{path}: names no way of pooling", hint=f"Known: {', '.join(POOLINGS)}.")
    for name in names:
        if name not in POOLINGS:
            raise ModelError(f"{path}: the pooling {name} is not supported", hint=f"Known: {', '.join(POOLINGS)}.")
    if raw.get("include_prompt", True) is False:
        raise ModelError(f"{path}: include_prompt = false is not supported")
    return tuple(names)


def _dense(folder: Path) -> DenseLayer:
    raw = _optional(folder / "config.json")
    activation = str(raw.get("activation_function", "")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"{folder / 'config.json'}: the activation {activation or 'that is missing'} is not known",
            hint=f"Known: {', '.join(_ACTIVATIONS)}.",
        )
    others = {
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
        "use_residual": False,
    }
    for key, only in others.items():
        if raw.get(key, only) not in (only, None):
            raise ModelError(f"{folder / 'config.json'}: {key} = {raw[key]!r} is not supported")
    weights = _tensors(folder)
    weight, bias = weights.get("linear.weight"), weights.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is None) == bool(raw.get("bias", True)):
        raise WeightsError(
            f"{folder}: holds {', '.join(weights) or 'no tensor'}; expected linear.weight and linear.bias"
        )
    return DenseLayer(weight=weight, bias=bias, activation=activation)


def _tensors(folder: Path) -> Mapping[str, Array]:
    reader = open_tensors(folder)
    return {name: np.asarray(reader.read(name), np.float32) for name in reader.names}


def _prompt(raw: JsonObject) -> str:
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts") or {}
    if name is None:
        return ""
    if not isinstance(prompts, dict) or name not in prompts:
        raise ModelError(f"config_sentence_transformers.json: default_prompt_name = {name!r} is not among its prompts")
    return str(prompts[name])
