"""Convert deltas of other tools to petrun's names: one entry point for peft adapters, MindPet checkpoints and ChatGLM's prefixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from petrun.checkpoint.delta import Delta
from petrun.graph.sites import Sites
from petrun.interop import chatglm
from petrun.interop.mindpet.reading import from_mindpet, mindpet_algorithm, mindpet_tokens
from petrun.interop.peft.adapter import from_peft, peft_algo, peft_task, peft_tokens, write_peft
from petrun.models.base import StoredName
from petrun.tensors import Array

__all__ = [
    "algo_of",
    "foreign_tokens",
    "from_mindpet",
    "from_peft",
    "to_net_names",
    "trained_classes",
    "trained_task",
    "write_peft",
]


def to_net_names(
    delta: Delta,
    names: Mapping[str, StoredName],
    prefixes: Sequence[str] = ("",),
    alpha: float | None = None,
    sites: Sites | None = None,
    base: Callable[[str], Array] | None = None,
) -> Delta:
    """Convert any delta to one with the net's parameter names, its `algo` and `config`. petrun's own pass unchanged.

    `base`: see `from_peft`. Raises DeltaError as `from_peft` and `from_mindpet` do.
    """
    if delta.algo:
        return delta
    if delta.origin == "peft":
        return from_peft(delta, names, prefixes, sites, base)
    if delta.origin == "chatglm":
        return chatglm.from_chatglm(delta, sites)
    return from_mindpet(delta, alpha, sites)


def algo_of(delta: Delta) -> str:
    """Return the name of the delta's algorithm. Works before `to_net_names`. Raises DeltaError for a foreign one that is not supported."""
    if delta.algo:
        return delta.algo
    if delta.origin == "chatglm":
        return chatglm.ALGO
    return peft_algo(delta) if delta.origin == "peft" else mindpet_algorithm(delta)


def foreign_tokens(delta: Delta) -> int:
    """Return how many virtual tokens a delta of another tool has. Works before `to_net_names`."""
    if delta.origin == "chatglm":
        return chatglm.chatglm_tokens(delta)
    return peft_tokens(delta) if delta.origin == "peft" else mindpet_tokens(delta)


def trained_task(delta: Delta) -> str | None:
    """Return the task that the delta says it was trained for; None where it does not. Works before `to_net_names`."""
    if delta.manifest is not None:
        return None if delta.manifest.task is None else delta.manifest.task.name
    told = peft_task(delta) if delta.origin == "peft" else None
    return told or ("classify" if trained_classes(delta) is not None else None)


def trained_classes(delta: Delta) -> int | None:
    """Return how many classes the delta's own classification head has; None where it has none. Works before `to_net_names`."""
    if delta.manifest is not None and delta.manifest.task is not None and delta.manifest.task.num_labels:
        return delta.manifest.task.num_labels
    for name, shape in delta.shapes.items():
        module = name.replace(".modules_to_save", "").removesuffix(".weight").removesuffix(".default")
        if name.endswith(".weight") and module.rpartition(".")[2] in ("classifier", "score") and len(shape) == 2:
            return shape[0]
    return None
