"""`petrun eval` and `petrun predict`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.options import MODEL, RUN, RunKeys, option

ALPHA = "LoRA alpha of a delta whose file does not say it (MindPet checkpoints)."


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(RunKeys):
    """The deltas that are scored, and where the numbers go."""

    deltas: tuple[str, ...] = option(
        "--delta",
        "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint. Given several times: all are scored in "
        "one pass and compared in pairs; they are called by their file or folder, or as you name them.",
        MODEL,
        default=(),
        metavar="[NAME=]PATH",
        choices=run_choices,
    )
    alpha: float | None = option("--alpha", ALPHA, MODEL)
    out: str | None = option("--out", "Write the numbers to this JSON file.", RUN)
    as_json: bool = option("--json", "Print the numbers as one JSON object, and nothing else.", RUN, default=False)
    seed: int = option("--seed", "Of the rows that are drawn to compare several deltas. Default 0.", RUN, default=0)


@dataclass(frozen=True, kw_only=True)
class PredictSettings(RunKeys):
    """The delta that predicts, and where the predictions go."""

    delta: str | None = option(
        "--delta",
        "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint.",
        MODEL,
        choices=run_choices,
    )
    alpha: float | None = option("--alpha", ALPHA, MODEL)
    out: str | None = option("--out", "Write one JSON object a row to this file.", RUN)
    logits: str | None = option(
        "--logits", "Also store the logits, (B, C) or (B, T, V), in this .safetensors file, tensor `logits`.", RUN
    )
