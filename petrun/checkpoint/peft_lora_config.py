"""adapter_config.json of a peft LoRA adapter: what is read, and what is refused.

Source: peft 0.21, tuners/lora/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from petrun.checkpoint.peft_config import Fields, Targets, pattern_key

# Initialisation, training and serving: nothing that changes what a trained adapter computes.
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
    ]
)
# Initialisations that leave the base's weights alone. The others (pissa, olora, corda, loftq, lora_ga) subtract something from them.
_BASE_KEEPING_INITS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraAdapter:
    """The part of an adapter's config that LoRA's mathematics and its targets need."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: Targets

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(pattern_key(self.rank_pattern, module), self.rank)

    def alpha_of(self, module: str) -> float:
        return self.alpha_pattern.get(pattern_key(self.alpha_pattern, module), self.alpha)


def parse_lora_config(place: str, raw: Mapping[str, Any]) -> LoraAdapter:
    """adapter_config.json -> LoraAdapter. Raises one DeltaError with every field that is wrong or not supported."""
    fields = Fields(raw)
    _refuse(fields)
    config = LoraAdapter(
        rank=fields.count("r", 8),
        alpha=fields.number("lora_alpha", 8.0),
        dropout=fields.number("lora_dropout", 0.0),
        rslora=fields.flag("use_rslora"),
        dora=fields.flag("use_dora"),
        rank_pattern={k: int(v) for k, v in fields.pattern("rank_pattern", whole=True).items()},
        alpha_pattern=fields.pattern("alpha_pattern", whole=False),
        targets=fields.targets(),
    )
    fields.raise_problems(
        place, "petrun reads LoRA, rsLoRA and DoRA adapters, with heads, biases and per-layer ranks and alphas."
    )
    return config


def _refuse(fields: Fields) -> None:
    """Fields that change the mathematics. One that is unknown here is refused unless it is off."""
    raw, problems = fields.raw, fields.problems
    fields.refuse_others(_READ, HARMLESS)
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _BASE_KEEPING_INITS:
        problems.append(
            f"init_lora_weights: {init!r} is not supported (such adapters change the base's own weights); "
            "save it with peft's path_initial_model_for_weight_conversion first"
        )
    fields.check_task()
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        problems.append(f"bias: {raw['bias']!r} is none of none, all, lora_only")
