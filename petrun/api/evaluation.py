"""`petrun.evaluate`: scores of a base and its deltas, from a program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from petrun.api.calls import called_by_program, settings_of
from petrun.api.training import Place
from petrun.cli import evaluate as cli
from petrun.errors import ConfigError
from petrun.typing import JsonObject

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EvaluateOptions(TypedDict, total=False):
    """The flags of `petrun eval` as keywords, dashes as underscores; `petrun eval --help` says what each does. None: not given."""

    base_bits: str | int | None
    base_strategy: Place | None
    delta_strategy: Place | None
    model: str | None
    alpha: float | None
    data: Place | Sequence[Place] | None
    task: str | None
    on_bad_row: Literal["stop", "skip"] | None
    seq_len: int | None
    metrics: str | Sequence[str] | None
    max_new_tokens: int | None
    batch_size: int | None
    out: Place | None
    seed: int | None
    device: Literal["cpu", "ascend"] | None
    compile_cache: bool | None
    settings: Mapping[str, object] | None
    """Any other key, as --set: {"data.buckets": 1}."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a base, and of the base with each delta, on the same rows."""

    base: dict[str, float]
    """Metric -> figure."""
    deltas: dict[str, dict[str, float]]
    """Name of a delta, by its file or folder -> metric -> figure; empty where no delta was given."""
    comparisons: tuple[JsonObject, ...]
    """Of several deltas: each pair and metric with its difference, interval and p, by a paired bootstrap."""
    results: JsonObject
    """All that `petrun eval --out` writes: task, rows, data, signatures and seconds among it."""


def evaluate(
    base: Place | None = None, *deltas: Place, quiet: bool = False, **options: Unpack[EvaluateOptions]
) -> Evaluation:
    """Score a base (None: the embedded one) and deltas on the same rows, as `petrun eval` does.

        petrun.evaluate("./llama", "runs/lora-1", data="dev.jsonl", metrics=["loss", "exact_match"]).deltas

    `deltas`: run folders, delta files, adapter folders of peft; "NAME=PATH" names one. `quiet`: nothing is printed.
    Raises PetrunError: ConfigError for settings, DataError for rows, DeltaError for a delta of another base.
    """
    for name in {"base", "delta"} & options.keys():
        raise ConfigError(f"petrun.evaluate({name}=...): is given by its place", hint="evaluate(BASE, DELTA, ...)")
    paths = tuple(os.fspath(delta) for delta in deltas)
    given = {"base": base, **options}
    settings = settings_of(cli.COMMAND, "evaluate", given, deltas=paths)
    with called_by_program(quiet):
        from petrun.commands.evaluate import run
        from petrun.inference.generation.multi_delta import named_path

        found = run(settings)
        scores = found["deltas"] if "deltas" in found else {named_path(path)[0]: found["delta"] for path in paths}
    return Evaluation(base=found["base"], deltas=scores, comparisons=tuple(found.get("comparisons", ())), results=found)
