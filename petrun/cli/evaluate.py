"""`petrun eval`."""

from __future__ import annotations

from typing import Annotated

from petrun.cli import options
from petrun.cli.options import DATA, MODEL, RUN, Text, Texts, Whole, given, option, split_list


def evaluate(
    base: options.Base = None,
    delta: Annotated[
        Texts,
        option(
            "--delta",
            "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint. Given several times: all are scored in "
            "one pass and compared in pairs; they are called by their file or folder, or as you name them.",
            MODEL,
            metavar="[NAME=]PATH",
        ),
    ] = None,
    base_strategy: options.BaseStrategy = None,
    delta_strategy: options.DeltaStrategy = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    data: Annotated[
        Text, option("--data", "Evaluation file, or several, comma-separated. None: the embedded task's.", DATA)
    ] = None,
    task: options.Task = None,
    on_bad_row: options.OnBadRow = None,
    seq_len: options.SeqLen = None,
    metrics: Annotated[
        Text,
        option(
            "--metrics",
            "Comma-separated: accuracy, f1_macro, matthews, loss, mse, pearson, spearman, perplexity, token_accuracy, "
            "exact_match, bleu, rouge1, rouge2, rougeL, or all. Default: those that need no generation.",
            RUN,
        ),
    ] = None,
    max_new_tokens: Annotated[
        Whole, option("--max-new-tokens", "Longest generated answer in tokens. Default 128.", RUN)
    ] = None,
    batch_size: options.BatchSize = None,
    out: Annotated[Text, option("--out", "Write the numbers to this JSON file.", RUN)] = None,
    seed: Annotated[
        Whole, option("--seed", "Of the rows that are drawn to compare several deltas. Default 0.", RUN)
    ] = None,
    device: options.Device = None,
    settings: options.Set = None,
) -> None:
    """Score base and delta side by side on a file of examples.

    Needs no more than the base and the delta: the delta knows its algorithm, task, labels and template, and refuses another base.

        petrun eval --base ./bert --delta runs/lora-1 --data dev.tsv
        petrun eval --delta runs/lora-1 --delta runs/ia3-1
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
            "eval.metrics": ("--metrics", split_list(metrics)),
            "eval.max_new_tokens": ("--max-new-tokens", max_new_tokens),
            "eval.batch_size": ("--batch-size", batch_size),
            "device": ("--device", device),
        }
    )
    from petrun.commands.evaluate import run

    run(flags, settings or [], deltas=delta or [], alpha=alpha, out=out, seed=seed or 0)
