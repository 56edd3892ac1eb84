"""adapter_config.json of a peft LoRA adapter: what is read, what is refused, and which layers its patterns
mean.

Source: peft 0.21, tuners/lora/config.py (fields), tuners/tuners_utils.py check_target_module_exists
(targets), utils/other.py get_pattern_key (rank_pattern and alpha_pattern are regular expressions over the
end of a module's path).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from petrun.errors import DeltaError

# Fields that do not change what a trained adapter computes: bookkeeping, initialisation, training and
# serving.
_HARMLESS = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "peft_type",
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
# Initialisations that leave the base's weights alone. The others (pissa, olora, corda, loftq, lora_ga)
# subtract something from them.
_BASE_KEEPING_INITS = ("gaussian", "eva", "orthogonal")
# Other tasks put a head of the same name to another use (a classifier over every token, say).
_TASKS = (None, "SEQ_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION")


@dataclass(frozen=True)
class PeftConfig:
    """The part of an adapter's config that LoRA's mathematics and its targets need."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: str | tuple[str, ...]
    """A regular expression over whole paths, or path ends; "all-linear" as in peft."""
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    saved_modules: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern_key(self.rank_pattern, module), self.rank)

    def alpha_of(self, module: str) -> float:
        return self.alpha_pattern.get(_pattern_key(self.alpha_pattern, module), self.alpha)

    def is_saved(self, module: str) -> bool:
        """`module` is one of modules_to_save: trained and stored as a whole."""
        return any(module == m or module.endswith("." + m) for m in self.saved_modules)

    def targets_module(self, module: str) -> bool | None:
        """Whether the config adapts `module`; None where only the model itself can tell (all-linear)."""
        if self.is_saved(module) or _names(self.excluded, module):
            return False
        if self.targets == "all-linear":
            return None
        if not _names(self.targets, module):
            return False
        if isinstance(self.targets, str) or not self.layers:
            return True
        return self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        if not self.layers_pattern:
            found = re.match(r".*?\.[^.]*\.(?P<index>\d+)\.", module)
            return int(found["index"]) if found else None
        for pattern in self.layers_pattern:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", module)
            if found:
                return int(found["index"])
        return None


def _names(patterns: str | tuple[str, ...], module: str) -> bool:
    if isinstance(patterns, str):
        return bool(patterns) and re.fullmatch(patterns, module) is not None
    return any(module == p or module.endswith("." + p) for p in patterns)


def _pattern_key(patterns: Mapping[str, Any], module: str) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def parse_peft_config(place: str, raw: Mapping[str, Any]) -> PeftConfig:
    """adapter_config.json -> PeftConfig. Raises one DeltaError with every field that is wrong or not
    supported.
    """
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise DeltaError(f"{place}: peft_type {kind!r} is not supported", hint="petrun reads LORA adapters.")
    problems = _unsupported(raw)
    fields = _Fields(raw, problems)
    config = PeftConfig(
        rank=fields.rank(),
        alpha=fields.number("lora_alpha", 8.0),
        dropout=fields.number("lora_dropout", 0.0),
        rslora=fields.flag("use_rslora"),
        rank_pattern={k: int(v) for k, v in fields.pattern("rank_pattern", whole=True).items()},
        alpha_pattern=fields.pattern("alpha_pattern", whole=False),
        targets=fields.names("target_modules", regex=True),
        excluded=fields.names("exclude_modules", regex=True),
        layers=fields.indices("layers_to_transform"),
        layers_pattern=fields.several("layers_pattern"),
        saved_modules=fields.several("modules_to_save"),
    )
    if problems:
        raise DeltaError(
            "\n  ".join([f"{place}:", *problems]) if len(problems) > 1 else f"{place}: {problems[0]}",
            hint="petrun reads LoRA and rsLoRA adapters, with heads, biases and per-layer ranks and alphas.",
        )
    return config


def _unsupported(raw: Mapping[str, Any]) -> list[str]:
    """Fields that change the mathematics. One that is unknown here is refused unless it is off."""
    problems = []
    if raw.get("use_dora"):
        problems.append("use_dora: DoRA adapters are not supported")
    for key, value in raw.items():
        off = value is None or value is False or value in ([], {}, "")
        if key not in _HARMLESS | _READ and not off:
            problems.append(f"{key}: {value!r} is not supported")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _BASE_KEEPING_INITS:
        problems.append(
            f"init_lora_weights: {init!r} is not supported (such adapters change the base's own weights); "
            "save it with peft's path_initial_model_for_weight_conversion first"
        )
    if raw.get("task_type") not in _TASKS:
        problems.append(f"task_type: {raw['task_type']!r} is not supported")
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        problems.append(f"bias: {raw['bias']!r} is none of none, all, lora_only")
    return problems


class _Fields:
    """Typed reading of a config's fields; what is wrong is collected."""

    def __init__(self, raw: Mapping[str, Any], problems: list[str]) -> None:
        self.raw = raw
        self.problems = problems

    def _wrong(self, key: str, wanted: str) -> None:
        self.problems.append(f"{key}: must be {wanted}, not {self.raw.get(key)!r}")

    def rank(self) -> int:
        value = self.raw.get("r", 8)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._wrong("r", "a positive whole number")
            return 1
        return value

    def number(self, key: str, default: float) -> float:
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a number")
            return default
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.raw.get(key) or False
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return bool(value)

    def pattern(self, key: str, *, whole: bool) -> dict[str, float]:
        value = self.raw.get(key) or {}
        kinds = int if whole else int | float
        if not isinstance(value, dict) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in value.values()):
            self._wrong(key, "a map of patterns to " + ("whole numbers" if whole else "numbers"))
            return {}
        for expression in value:
            self._check_regex(key, rf"(.*\.)?({expression})$")
        return dict(value)

    def names(self, key: str, *, regex: bool) -> str | tuple[str, ...]:
        value = self.raw.get(key)
        if isinstance(value, str):
            if value != "all-linear":
                self._check_regex(key, value)
            return value
        return self.several(key)

    def several(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key) or ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            self._wrong(key, "a list of names")
            return ()
        return tuple(value)

    def indices(self, key: str) -> tuple[int, ...]:
        value = self.raw.get(key)
        several = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(v, bool) or not isinstance(v, int) for v in several):
            self._wrong(key, "layer numbers")
            return ()
        return tuple(several)

    def _check_regex(self, key: str, expression: str) -> None:
        try:
            re.compile(expression)
        except re.error as error:
            self.problems.append(f"{key}: {expression!r} is not a regular expression ({error})")
