"""Read config.json: every field is read by name and type, all problems are collected, one ModelError is raised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from petrun.errors import ModelError, did_you_mean
from petrun.typing import JsonObject

_MISSING = object()

FOREIGN: Mapping[str, tuple[object, ...]] = {
    # Fields that change the mathematics of some architecture, and the values that mean "off". None of the families here has them;
    # a base that sets one was made by other code, and ignoring the field would give wrong results without an error.
    "alibi": (False,),
    "attention_multiplier": (1, 1.0),
    "attn_logit_softcapping": (0, 0.0),
    "attn_logit_soft_cap": (0, 0.0),
    "block_sparse_attention": (False,),
    "clip_qkv": (0, 0.0),
    "cross_attention_hidden_size": (),
    "embedding_multiplier": (1, 1.0),
    "final_logit_softcapping": (0, 0.0),
    "is_encoder_decoder": (False,),
    "kv_lora_rank": (0,),
    "logit_scale": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "output_multiplier_scale": (1, 1.0),
    "parallel_attn": (False,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "q_lora_rank": (0,),
    "quantization_config": ({},),
    "residual_multiplier": (1, 1.0),
    "rope_interleaved": (False,),
    "scale_depth": (1, 1.0),
    "scale_emb": (1, 1.0),
    "use_bidirectional_attention": (False,),
    "use_qk_norm": (False,),
}

_HINTS = {
    "quantization_config": "Use the float16, bfloat16 or float32 copy of the model, or dequantise it first.",
    "is_encoder_decoder": "Encoder-decoders are supported for t5 and mt5 alone.",
    "output_router_logits": "It adds the router's auxiliary loss in training, which is not computed: set it to false in config.json.",
}


class Fields:
    """A config.json, and the problems found in it so far."""

    def __init__(self, raw: JsonObject, family: str, own: Sequence[str] = ()) -> None:
        """`own`: fields of FOREIGN that this family has, and is_causal where it is no decoder."""
        self.raw = raw
        self.family = family
        self.problems: list[str] = []
        self._wrong: set[str] = set()
        """Fields that have a problem."""
        self.hints: list[str] = []
        for name, off in FOREIGN.items():
            value = raw.get(name)
            if name not in own and value is not None and not any(value == v and type(value) is type(v) for v in off):
                self.unsupported(name, value, f"{spell(off[0])} (off)" if off and off[0] != {} else "leaving it out")
        if "is_causal" not in own:
            # transformers reads it of every decoder: without it a token sees those that follow it.
            self.only("is_causal", (True,), True)

    def instead(self, values: JsonObject) -> Fields:
        """Return these fields with some other values. Problems of both are collected in one place."""
        other = copy(self)
        other.raw = {**self.raw, **values}
        return other

    def unsupported(self, name: str, value: object, supported: str) -> None:
        """Record a field whose value changes what the model computes and is not implemented."""
        self._wrong.add(name)
        self.problems.append(f"{name} = {spell(value)} is not supported for {self.family}; supported: {supported}")
        if name in _HINTS:
            self.hints.append(_HINTS[name])

    def wrong(self, name: str, value: object, wanted: str) -> None:
        """Record an invalid value. A field with a problem has a substitute value, which is not checked."""
        if name in self._wrong:
            return
        self._wrong.add(name)
        self.problems.append(f"{name} = {spell(value)}: must be {wanted}")

    def value(self, name: str, default: object = _MISSING, aliases: Sequence[str] = ()) -> Any:
        """Return the field, or its default where it is absent or null."""
        for key in (name, *aliases):
            if self.raw.get(key) is not None:
                return self.raw[key]
        if default is _MISSING:
            self._wrong.add(name)
            self.problems.append(f"{name} is missing")
            return None
        return default

    def integer(self, name: str, default: object = _MISSING, aliases: Sequence[str] = (), least: int = 1) -> int:
        value = self.value(name, default, aliases)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31:
            return value
        if value is not None:
            most = " and below 2147483648" if isinstance(value, int) and value >= 2**31 else ""
            self.wrong(name, value, f"an integer of at least {least}{most}")
        return max(least, 1)

    def number(self, name: str, default: object = _MISSING, least: float = 0.0, below: float = math.inf) -> float:
        value = self.value(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value < below:
            return float(value)
        if value is not None:
            self.wrong(
                name,
                value,
                f"a number of at least {least:g}" + (f" and below {below:g}" if below < math.inf else ""),
            )
        return least

    def positive(self, name: str, default: object = _MISSING) -> float:
        value = self.value(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        if value is not None:
            self.wrong(name, value, "a number above 0")
        return 1.0

    def flag(self, name: str, default: bool) -> bool:
        value = self.value(name, default)
        if isinstance(value, bool):
            return value
        self.wrong(name, value, "true or false")
        return default

    def only(self, name: str, allowed: Sequence[object], default: object) -> None:
        """Require one of these values, as others compute something else."""
        value = self.value(name, default)
        if value not in allowed:
            self.unsupported(name, value, ", ".join(spell(v) for v in allowed))

    def choice(self, name: str, known: Sequence[str], default: object = _MISSING) -> str:
        value = self.value(name, default)
        if value in known:
            return str(value)
        if value is not None:
            self.unsupported(name, value, ", ".join(sorted(known)))
            if isinstance(value, str):
                self.hints.append(did_you_mean(value, known))
        return known[0]

    def finish(self) -> None:
        """Raise ModelError with every problem found; values read so far are usable only where there is none."""
        if self.problems:
            raise ModelError("; ".join(self.problems), hint=" ".join(dict.fromkeys(self.hints)))


def spell(value: object) -> str:
    """Spell a value as in the JSON file, shortened."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    text = text or (f'"{value}"' if isinstance(value, str) else str(value))
    return text if len(text) <= 80 else text[:77] + "..."
