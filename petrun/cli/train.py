"""`petrun train`."""

from __future__ import annotations

import typer

from petrun.cli.cluster import launch
from petrun.cli.command import Command
from petrun.cli.signals import distinguish_signals
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.commands.train import TrainSettings


def train(settings: TrainSettings) -> None:
    """Fine-tune a base with a delta algorithm and save only what was trained.

    With nothing but --algo, the embedded base is tuned on the embedded task. An example with your own files:

        petrun train --algo lora --rank 8 --base ./bert --data train.tsv --eval-data dev.tsv
    """
    code = launch(settings, COMMAND)
    if code is not None:
        raise typer.Exit(code)
    with distinguish_signals():
        # Imported here so that --help does not wait for MindSpore.
        from petrun.commands.train import run

        run(settings)


SAVING = (
    "train.save_every_steps",
    "train.keep_states",
    "train.max_seconds",
    "train.on_nan",
    "train.spike_ratio",
    "train.tracker",
)
"""Settings of a run that say when its state is saved, what happens at a loss that is not finite, and who gets the log."""

COMMAND = Command(
    name="train",
    settings=TrainSettings,
    run=train,
    options=(
        "recipe", "algo", "delta.rank", "delta.alpha", "delta.dropout", "delta.tokens", "delta.target", "delta.exclude", "delta.rows",
        "train.train_also", "init_delta", "model.base", "model.base_strategy", "delta_strategy", "model.family", "model.quant", "data.path",
        "data.eval_path", "data.eval_split", "eval.metrics",
        "data.on_bad_row", "data.task", "data.template", "data.seq_len", "data.pack", "data.shuffle",
        "train.epochs", "train.steps", "train.batch_size", "train.accumulate", "optim.lr", "optim.schedule", "optim.warmup",
        "optim.weight_decay", "optim.clip", "train.neftune_alpha", "preference.loss", "preference.beta",
        "parallel", "parallel.card_memory", "parallel.recompute", "parallel.offload",
        *LAUNCH_FIELDS, "out.dir", "out.format", "train.seed", "resume", "allow", *SAVING, "device", "compile_cache",
        "memory_check", "sets", "dry_run", "preflight",
    ),
)  # fmt: skip
