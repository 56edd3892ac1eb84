"""Read and write peft adapter folders, adapter_config.json + adapter_model.safetensors: the entry point, which calls the kind's codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.checkpoint.tied import expand_shared
from petrun.delta import METHODS, find_method, names_where
from petrun.delta.forms import NotStored
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.interop.peft.adalora import read_adalora, write_adalora
from petrun.interop.peft.config import TASKS
from petrun.interop.peft.ia3 import read_ia3, write_ia3
from petrun.interop.peft.loha import read_loha, write_loha
from petrun.interop.peft.lokr import read_lokr, write_lokr
from petrun.interop.peft.lora import read_lora, write_lora
from petrun.interop.peft.miss import read_miss, write_miss
from petrun.interop.peft.oft import read_oft, write_oft
from petrun.interop.peft.prefix import read_prefix, write_prefix
from petrun.interop.peft.prompt import read_prompt, write_prompt
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.rows import read_rows, split_rows, write_rows
from petrun.interop.peft.vera import read_vera, write_vera
from petrun.interop.peft.writing import ExportRequest
from petrun.models.base import StoredName, untied
from petrun.tensors import Array


@dataclass(frozen=True)
class Codec:
    """Reads and writes adapters of one peft_type."""

    read: Callable[[Reading], Delta]
    write: Callable[[ExportRequest], None] | None = None
    """None: peft has another type for the same method, which is written instead."""


CODECS = {
    "LORA": Codec(read_lora, write_lora),
    "ADALORA": Codec(read_adalora, write_adalora),
    "LOHA": Codec(read_loha, write_loha),
    "LOKR": Codec(read_lokr, write_lokr),
    "VERA": Codec(read_vera, write_vera),
    "OFT": Codec(read_oft, write_oft),
    "MISS": Codec(read_miss, write_miss),
    "IA3": Codec(read_ia3, write_ia3),
    "PREFIX_TUNING": Codec(read_prefix, write_prefix),
    "PROMPT_TUNING": Codec(read_prompt, write_prompt),
    "P_TUNING": Codec(read_prompt),
    "TRAINABLE_TOKENS": Codec(read_rows, write_rows),
}
"""peft_type -> its codec. The record of a method names its types (`Method.peft`)."""


def from_peft(
    delta: Delta,
    names: Mapping[str, StoredName],
    prefixes: Sequence[str] = ("",),
    sites: Sites | None = None,
    base: Callable[[str], Array] | None = None,
) -> Delta:
    """Convert a peft adapter to a delta in the net's names, with its algo and config.

    `names`: net parameter -> its Hugging Face name; `prefixes`: prefixes that a module's path may lack (an adapter
    trained on BertModel); `sites`: the model's, for virtual tokens and embeddings; `base`: net parameter -> its value
    (float32) in the base, which some adapters change or keep in part.
    Raises one DeltaError with everything in the config that is not supported, or every tensor that matches no parameter, lacks its
    partner or contradicts the config; and for NaN or infinity.
    """
    algo = peft_algo(delta)
    return CODECS[delta.config["peft_type"]].read(Reading(delta, names, prefixes, algo=algo, sites=sites, base=base))


def peft_algo(delta: Delta) -> str:
    """Return the algorithm that a peft adapter is converted to. Raises DeltaError for a kind that is not supported."""
    kind = delta.config.get("peft_type")
    methods = [name for name, method in METHODS.items() if isinstance(method.peft, tuple) and kind in method.peft]
    if not isinstance(kind, str) or not methods:
        raise DeltaError(
            f"{delta.path / ADAPTER_CONFIG}: peft_type {kind!r} is not supported",
            hint=f"petrun reads adapters of these kinds: {', '.join(CODECS)}.",
        )
    return methods[0]


def peft_task(delta: Delta) -> str | None:
    """Return petrun's name of the task of a peft adapter; None where its task_type stands for none or several."""
    return TASKS.get(str(delta.config.get("task_type")))


def peft_tokens(delta: Delta) -> int:
    """Return how many virtual tokens a peft adapter has."""
    count = delta.config.get("num_virtual_tokens")
    return count if isinstance(count, int) else 0


def write_peft(
    delta: Delta,
    names: Mapping[str, StoredName],
    out: Path,
    *,
    task: str | None = None,
    base: str | None = None,
    sites: Sites | None = None,
) -> None:
    """Write a delta as an adapter folder that peft loads. `out` must not exist or be empty.

    `task`: petrun's (classify, tokens, lm, instruct), for peft's task_type; `base`: name or path from which peft loads the base;
    `sites`: the model's, for virtual tokens. The folder cannot hold encoders of virtual tokens: petrun.commands.export computes their
    results, and calls this.
    Raises DeltaError where peft has no form for the algorithm, or where the delta trains part of a module (peft saves complete
    modules); OutputError.
    """
    # A method that joins it, as in lora+bitfit, trains values of the base or nothing.
    form = find_method(delta.algo).peft
    if isinstance(form, NotStored):
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, which has no peft form here: {form.reason}",
            hint=f"petrun writes these: {names_where(lambda method: isinstance(method.peft, tuple))}.",
        )
    if split_rows(delta, untied(names))[1].ids and form[0] not in ("LORA", "TRAINABLE_TOKENS"):
        raise DeltaError(
            f"{delta.path}: trains rows of the token table, for which peft's {form[0]} adapters have no place",
            hint="Keep the delta in petrun's own format, or merge it into its base.",
        )
    write = CODECS[form[0]].write
    assert write is not None, f"{form[0]} is only read"
    write(
        ExportRequest(
            delta=expand_shared(delta, names), names=untied(names), out=out, task=task, base=base, sites=sites
        )
    )
