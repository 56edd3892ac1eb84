"""peft adapter folders, in and out: adapter_config.json + adapter_model.safetensors. One file a kind; here they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.checkpoint.peft_lora import read_lora, write_lora
from petrun.checkpoint.peft_reading import Reading
from petrun.errors import DeltaError
from petrun.models.base import StoredName

_READERS = {"LORA": read_lora}
"""peft_type -> reader."""
_WRITERS = {"lora": write_lora}
"""petrun's algorithm -> writer."""


def from_peft(delta: Delta, names: Mapping[str, StoredName], prefixes: Sequence[str] = ("",)) -> Delta:
    """A peft adapter as read -> the same delta in the net's names, with its algo and config.

    `names`: net parameter -> its Hugging Face name; `prefixes`: what a module's path may lack (an adapter
    trained on BertModel).
    Raises one DeltaError with everything in the config that is not supported, or every tensor that fits
    nothing, is missing its partner or contradicts the config; and for NaN or infinity.
    """
    kind = delta.config.get("peft_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise DeltaError(
            f"{delta.path / ADAPTER_CONFIG}: peft_type {kind!r} is not supported",
            hint=f"petrun reads adapters of these kinds: {', '.join(_READERS)}.",
        )
    return _READERS[kind](Reading(delta, names, prefixes))


def write_peft(
    delta: Delta,
    names: Mapping[str, StoredName],
    out: Path,
    *,
    task: str | None = None,
    base: str | None = None,
) -> None:
    """Write a delta as an adapter folder that peft loads. `out` must not exist or be empty.

    `task`: petrun's (classify, lm, instruct), for peft's task_type; `base`: what peft is to load the base
    from.
    Raises DeltaError where peft has no form for the algorithm, or where the delta trains part of a module (peft saves modules
    whole); OutputError.
    """
    if delta.algo not in _WRITERS:
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, which has no peft form here",
            hint=f"petrun writes these: {', '.join(_WRITERS)}.",
        )
    _WRITERS[delta.algo](delta, names, out, task=task, base=base)
