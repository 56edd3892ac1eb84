"""`petrun eval`."""

from __future__ import annotations

from petrun.cli.command import Command, SchemaKey
from petrun.config.commands.evaluate import EvaluateSettings

TASK = SchemaKey(
    name="data.task", help="classify, tokens, lm or instruct. Default: from the delta, else from the columns."
)
SEQ_LEN = SchemaKey(name="data.seq_len", help="Longest row in tokens; longer ones are cut and counted.")


def evaluate(settings: EvaluateSettings) -> None:
    """Score base and delta side by side on a file of examples.

    Needs no more than the base and the delta: the delta knows its algorithm, task, labels and template, and refuses another base.

        petrun eval --base ./bert --delta runs/lora-1 --data dev.tsv
        petrun eval --delta runs/lora-1 --delta runs/ia3-1
    """
    from petrun.commands.evaluate import run

    run(settings)


COMMAND = Command(
    name="eval",
    settings=EvaluateSettings,
    run=evaluate,
    options=(
        "model.base",
        "deltas",
        *("model.base_strategy", "delta_strategy", "model.family", "model.quant"),
        "alpha",
        SchemaKey(name="data.path", help="Evaluation file, or several, comma-separated. Default: the embedded task's."),
        *(TASK, "data.on_bad_row", SEQ_LEN),
        *("eval.metrics", "eval.max_new_tokens", "eval.batch_size"),
        *("out", "as_json", "seed", "device", "compile_cache", "sets"),
    ),
)
