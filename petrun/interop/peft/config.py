"""Read the fields of a peft adapter's adapter_config.json with their types, and match its patterns to layers.

Source: peft 0.21, config.py (fields of every kind), tuners/tuners_utils.py check_target_module_exists (targets), utils/other.py
get_pattern_key (patterns are regular expressions over the end of a module's path).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from petrun.data.tasks import TOKENS
from petrun.errors import DeltaError
from petrun.typing import JsonObject

# Fields of every kind that do not change what a trained adapter computes.
_BOOKKEEPING = frozenset(
    ["auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "peft_type"]
)
_EMBEDDING_LAYERS = ("embed_tokens", "lm_head")
# Other tasks use a head of the same name for something else.
_TASKS = (None, "SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")


TASKS = {"SEQ_CLS": "classify", "TOKEN_CLS": TOKENS}
"""peft's task_type -> petrun's name of the task; a CAUSAL_LM may be of several."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The part of a config that says which layers are adapted and which are saved in full."""

    targets: str | tuple[str, ...]
    """A regular expression over full paths, or ends of paths; "all-linear" as in peft."""
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    saved_modules: tuple[str, ...]

    def is_saved(self, module: str) -> bool:
        """Return whether `module` is one of modules_to_save: trained and stored in full."""
        return names_module(self.saved_modules, module)

    def targets_module(self, module: str) -> bool | None:
        """Return whether the config adapts `module`; None where only the model itself can tell (all-linear)."""
        if self.is_saved(module) or names_module(self.excluded, module):
            return False
        if self.targets == "all-linear":
            return None
        if not names_module(self.targets, module):
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


def names_module(patterns: str | tuple[str, ...], module: str) -> bool:
    """Return whether the patterns name `module`: a regular expression matches full paths, a list holds ends of paths."""
    if isinstance(patterns, str):
        return bool(patterns) and re.fullmatch(patterns, module) is not None
    return any(module == p or module.endswith("." + p) for p in patterns)


def tying(raw: JsonObject) -> tuple[bool, bool]:
    """Return whether ensure_weight_tying keeps the layers of a tied base alike: modules_to_save, or else the targets. Where neither names a
    layer by one of the two names that peft knows, the field does nothing (GPT-2's embedding is called wte).

    Source: peft 0.21, tuners/tuners_utils.py _check_tied_modules.
    """
    fields = Fields(raw)
    saved, targets = fields.several("modules_to_save"), fields.names("target_modules")
    if raw.get("ensure_weight_tying") is not True:
        return False, False
    if any(module.rpartition(".")[2] in _EMBEDDING_LAYERS for module in saved):
        return True, False
    if isinstance(targets, str):
        return False, any(re.fullmatch(targets, name) for name in _EMBEDDING_LAYERS)
    return False, any(module.rpartition(".")[2] in _EMBEDDING_LAYERS for module in targets)


def pattern_key(patterns: Mapping[str, object], module: str) -> str:
    """Return the first key of rank_pattern or alpha_pattern that matches `module`; `module` itself where none does."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The part of a config that says the rank and the alpha of every layer."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(pattern_key(self.rank_pattern, module), self.rank)

    def alpha_of(self, module: str) -> float:
        return self.alpha_pattern.get(pattern_key(self.alpha_pattern, module), self.alpha)


class Fields:
    """Reads a config's fields with their types; errors are collected in `problems`."""

    def __init__(self, raw: JsonObject) -> None:
        self.raw = raw
        self.problems: list[str] = []

    def refuse_others(self, read: Collection[str], harmless: Collection[str] = ()) -> None:
        """Refuse a field that is neither read nor harmless, unless it is off: it may change the mathematics."""
        for key, value in self.raw.items():
            off = value is None or value is False or value in ([], {}, "", "none")
            if key not in _BOOKKEEPING and key not in read and key not in harmless and not off:
                self.problems.append(f"{key}: {value!r} is not supported")

    def check_task(self) -> None:
        if self.raw.get("task_type") not in _TASKS:
            self.problems.append(f"task_type: {self.raw['task_type']!r} is not supported")

    def raise_problems(self, path: str, hint: str) -> None:
        """Raise one DeltaError with all problems, where there are any."""
        if self.problems:
            several = len(self.problems) > 1
            raise DeltaError(
                "\n  ".join([f"{path}:", *self.problems]) if several else f"{path}: {self.problems[0]}", hint=hint
            )

    def targets(self) -> Targets:
        return Targets(
            targets=self.names("target_modules"),
            excluded=self.names("exclude_modules"),
            layers=self.indices("layers_to_transform"),
            layers_pattern=self.several("layers_pattern"),
            saved_modules=self.several("modules_to_save"),
        )

    def count(self, key: str, default: int) -> int:
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._wrong(key, "a positive whole number")
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

    def names(self, key: str) -> str | tuple[str, ...]:
        """Read a regular expression, or a list of names."""
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

    def _wrong(self, key: str, wanted: str) -> None:
        self.problems.append(f"{key}: must be {wanted}, not {self.raw.get(key)!r}")

    def _check_regex(self, key: str, expression: str) -> None:
        try:
            re.compile(expression)
        except re.error as error:
            self.problems.append(f"{key}: {expression!r} is not a regular expression ({error})")


def read_ranks(fields: Fields, alpha: str) -> Ranks:
    """Read ranks and alphas. `alpha`: the key of the alpha of every layer."""
    return Ranks(
        rank=fields.count("r", 8),
        alpha=fields.number(alpha, 8.0),
        rank_pattern={k: int(v) for k, v in fields.pattern("rank_pattern", whole=True).items()},
        alpha_pattern=fields.pattern("alpha_pattern", whole=False),
    )
