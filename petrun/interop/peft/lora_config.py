"""Read the adapter_config.json of a peft LoRA adapter, and refuse what is not supported.

Source: peft 0.21, tuners/lora/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from petrun.interop.peft.config import Fields, Ranks, Targets, read_ranks
from petrun.typing import JsonObject

# Settings of initialisation, training and serving, which do not change what a trained adapter computes.
HARMLESS = frozenset(
    [
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
        "fan_in_fan_out",
        "ensure_weight_tying",
    ]
)
_READ = frozenset(
    [
        "r",
        "task_type",
        "use_dora",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "bias",
        "init_lora_weights",
        "lora_bias",
        "trainable_token_indices",
        "target_parameters",
    ]
)
# Initialisations that leave the base's weights alone. The others (pissa, olora, corda, loftq, lora_ga) subtract something from them.
_BASE_KEEPING_INITS = ("gaussian", "eva", "orthogonal")
_WHY_NOT = {
    "layer_replication": "the adapted model has other layers than its base: merge it with peft first",
    "alora_invocation_tokens": "an activated LoRA works only behind certain tokens, and every layer here sees vectors, not tokens",
}


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """The part of an adapter's config that LoRA's mathematics and its targets need."""

    ranks: Ranks
    dropout: float
    rslora: bool
    dora: bool
    bias: bool
    """lora_bias: a bias on B, scaled as the product is."""
    init: str
    """pissa or olora, where the adapter's initial matrices were subtracted from the base; else ""."""
    tokens: Mapping[str, tuple[int, ...]]
    """trainable_token_indices: module, "" for the token embedding -> rows of its matrix that were trained."""
    targets: Targets


def parse_lora_config(path: str, raw: JsonObject) -> LoraAdapter:
    """Parse adapter_config.json. Raises one DeltaError with every field that is wrong or not supported."""
    fields = Fields(raw)
    _refuse(fields)
    config = LoraAdapter(
        ranks=read_ranks(fields, "lora_alpha"),
        dropout=fields.number("lora_dropout", 0.0),
        rslora=fields.flag("use_rslora"),
        dora=fields.flag("use_dora"),
        bias=fields.flag("lora_bias"),
        init=_repeated(raw),
        tokens=_tokens(fields),
        targets=_targets(fields),
    )
    fields.raise_problems(
        path,
        "petrun reads LoRA, rsLoRA, DoRA, PiSSA and OLoRA adapters, with heads, biases and per-layer ranks and alphas.",
    )
    return config


def _refuse(fields: Fields) -> None:
    """Refuse fields that change the mathematics, and unknown ones unless they are off."""
    raw, problems = fields.raw, fields.problems
    problems += [f"{key}: {raw[key]!r} is not supported ({why})" for key, why in _WHY_NOT.items() if raw.get(key)]
    fields.refuse_others((*_READ, *_WHY_NOT), HARMLESS)
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _BASE_KEEPING_INITS and not _repeated(raw):
        problems.append(
            f"init_lora_weights: {init!r} is not supported (such adapters change the base's own weights); "
            "save it with peft's path_initial_model_for_weight_conversion first"
        )
    if _repeated(raw) and raw.get("use_dora"):
        problems.append(f"use_dora: together with init_lora_weights {init!r} it is not supported")
    if raw.get("lora_bias") and raw.get("use_dora"):
        problems.append("lora_bias: together with use_dora it is not supported, by peft neither")
    fields.check_task()
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        problems.append(f"bias: {raw['bias']!r} is none of none, all, lora_only")


def _repeated(raw: JsonObject) -> str:
    """Return pissa or olora: what these subtract follows from the base's weights alone, and peft subtracts it again whenever it loads the
    adapter. pissa is spelt in lower case, olora in any."""
    init = raw.get("init_lora_weights", True)
    return init.lower() if isinstance(init, str) and (init == "pissa" or init.lower() == "olora") else ""


def _tokens(fields: Fields) -> dict[str, tuple[int, ...]]:
    given = fields.raw.get("trainable_token_indices") or {}
    table = given if isinstance(given, dict) else {"": given}
    if not all(
        isinstance(rows, list) and all(isinstance(row, int) and not isinstance(row, bool) and row >= 0 for row in rows)
        for rows in table.values()
    ):
        fields.problems.append(
            f"trainable_token_indices: must be token ids, or a map of modules to them, not {given!r}"
        )
        return {}
    return {module: tuple(rows) for module, rows in table.items()}


def _targets(fields: Fields) -> Targets:
    """Read the targets. target_parameters names weights, target_modules layers: LoRA on the weight of a linear layer is LoRA on the
    layer.
    """
    targets, parameters = fields.targets(), fields.several("target_parameters")
    if not parameters:
        return targets
    others = [name for name in parameters if name.rpartition(".")[2] != "weight"]
    if others or fields.raw.get("rank_pattern") or fields.raw.get("alpha_pattern"):
        why = f"{others[0]} is no layer's weight" if others else "together with rank_pattern or alpha_pattern"
        fields.problems.append(f"target_parameters: {list(parameters)!r} is not supported ({why})")
    if isinstance(targets.targets, str) and targets.targets:
        fields.problems.append(
            f"target_parameters: together with target_modules {targets.targets!r} it is not supported"
        )
        return targets
    layers = tuple(name.removesuffix(".weight") for name in parameters)
    return replace(targets, targets=(*targets.targets, *layers))
