"""Say whether vLLM, and vLLM-Ascend with it, loads an adapter folder of peft.

Source: vLLM 0.26, vllm/lora/peft_helper.py (what is refused; alpha / r for all layers) and vllm/config/lora.py (the ranks).
"""

from __future__ import annotations

from collections.abc import Iterable

from petrun.errors import DeltaError
from petrun.typing import JsonObject

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank."""
_HEADS = {"classifier", "score"}


def require_vllm(fields: JsonObject, names: Iterable[str]) -> int:
    """Return the --max-lora-rank that an adapter needs. `fields`: its adapter_config.json; `names`: its tensors.

    Raises DeltaError with everything that vLLM refuses, or would compute otherwise.
    """
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise DeltaError(
            f"vLLM loads LoRA alone, and this is {kind}",
            hint="--as lora writes the plain LoRA of its variants; anything else is merged: petrun merge.",
        )
    rank = int(fields["r"])
    heads = sorted(set(fields.get("modules_to_save") or ()) - _HEADS)
    problems = [
        *(["use_dora: vLLM does not compute magnitudes"] if fields.get("use_dora") else []),
        *([f"modules_to_save: {', '.join(heads)} would stay untrained"] if heads else []),
        *(["bias: vLLM loads no biases of an adapter"] if fields.get("bias", "none") != "none" else []),
        *(["rank_pattern: vLLM scales every layer by alpha / r"] if fields.get("rank_pattern") else []),
        *(["alpha_pattern: vLLM scales every layer by alpha / r"] if fields.get("alpha_pattern") else []),
        *(["rows of single tokens: trainable_token_indices"] if fields.get("trainable_token_indices") else []),
        *([f"rank {rank}: the largest --max-lora-rank is {RANKS[-1]}"] if rank > RANKS[-1] else []),
        *(f"{name}: vLLM has no place for it" for name in names if ".lora_" not in name and not _is_head(name)),
    ]
    if problems:
        raise DeltaError(
            "vLLM does not load this delta as it is:\n  " + "\n  ".join(problems[:8]),
            hint="petrun merge writes a folder that vLLM serves without an adapter.",
        )
    return next(each for each in RANKS if each >= rank)


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split("."))
