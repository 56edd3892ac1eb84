"""`petrun predict`."""

from __future__ import annotations

from typing import Annotated

from petrun.cli import options
from petrun.cli.options import DATA, RUN, Text, Whole, given, option, split_list


def predict(
    base: options.Base = None,
    delta: options.Delta = None,
    base_strategy: options.BaseStrategy = None,
    delta_strategy: options.DeltaStrategy = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    data: Annotated[Text, option("--data", "File of rows to predict, or several, comma-separated.", DATA)] = None,
    out: Annotated[Text, option("--out", "Write one JSON object a row to this file.", RUN)] = None,
    task: options.Task = None,
    on_bad_row: options.OnBadRow = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = None,
    logits: Annotated[
        Text,
        option(
            "--logits", "Also store the logits, (B, C) or (B, T, V), in this .safetensors file, tensor `logits`.", RUN
        ),
    ] = None,
    max_new_tokens: Annotated[
        Whole, option("--max-new-tokens", "Longest generated answer in tokens. Default 128.", RUN)
    ] = None,
    device: options.Device = None,
    settings: options.Set = None,
) -> None:
    """Predict every row of a file with base plus delta (or the base alone).

    classify writes label and scores, instruct the generated text, lm the loss of each row; rows stay in the file's order.

        petrun predict --base ./bert --delta runs/lora-1 --data rows.jsonl --out predictions.jsonl
    """
    flags = given(
        {
            "model.base": ("--base", base),
            "model.base_strategy": ("--base-strategy", base_strategy),
            "delta_strategy": ("--delta-strategy", delta_strategy),
            "model.family": ("--model", model),
            "data.path": ("--data", split_list(data)),
            "data.task": ("--task", task),
            "data.on_bad_row": ("--on-bad-row", on_bad_row),
            "data.seq_len": ("--seq-len", seq_len),
            "eval.max_new_tokens": ("--max-new-tokens", max_new_tokens),
            "eval.batch_size": ("--batch-size", batch_size),
            "device": ("--device", device),
        }
    )
    from petrun.commands.predict import run

    run(flags, settings or [], delta=delta, alpha=alpha, out=out, logits_file=logits)
