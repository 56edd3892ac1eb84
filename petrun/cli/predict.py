"""`petrun predict`."""

from __future__ import annotations

from petrun.cli.command import Command, SchemaKey
from petrun.cli.evaluate import SEQ_LEN, TASK
from petrun.config.commands.evaluate import PredictSettings


def predict(settings: PredictSettings) -> None:
    """Predict every row of a file with base plus delta (or the base alone).

    classify writes label and scores, instruct the generated text, lm the loss of each row; rows stay in the file's order.

        petrun predict --base ./bert --delta runs/lora-1 --data rows.jsonl --out predictions.jsonl
    """
    from petrun.commands.predict import run

    run(settings)


COMMAND = Command(
    name="predict",
    settings=PredictSettings,
    run=predict,
    options=(
        "model.base",
        "delta",
        *("model.base_strategy", "delta_strategy", "model.family", "model.quant"),
        "alpha",
        SchemaKey(name="data.path", help="File of rows to predict, or several, comma-separated."),
        "out",
        *(TASK, "data.on_bad_row", SEQ_LEN, "eval.batch_size"),
        "logits",
        *("eval.max_new_tokens", "device", "compile_cache", "sets"),
    ),
)
