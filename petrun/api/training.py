"""`petrun.train`: a run from a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from petrun.api.calls import called_by_program, settings_of
from petrun.cli import train as cli
from petrun.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from petrun.training.run_record import RunRecord

Place: TypeAlias = "str | os.PathLike[str]"


class TrainOptions(TypedDict, total=False):
    """The flags of `petrun train` as keywords, dashes as underscores; `petrun train --help` says what each does. None: not given."""

    algo: str | None
    rank: int | None
    alpha: float | None
    dropout: float | None
    tokens: int | None
    target: str | Sequence[str] | None
    exclude: str | Sequence[str] | None
    train_rows: str | int | None
    train_also: str | Sequence[str] | None
    neftune_alpha: float | None
    init_delta: Place | None
    base: Place | None
    base_bits: str | int | None
    base_strategy: Place | None
    delta_strategy: Place | None
    model: str | None
    data: Place | Sequence[Place] | None
    eval_data: Place | Sequence[Place] | None
    eval_split: float | None
    metrics: str | Sequence[str] | None
    on_bad_row: Literal["stop", "skip"] | None
    task: str | None
    template: Place | None
    seq_len: int | None
    pack: bool | None
    shuffle: bool | None
    epochs: float | None
    steps: int | None
    batch_size: int | None
    accumulate: int | None
    lr: float | None
    schedule: Literal["constant", "linear", "cosine"] | None
    warmup: float | None
    weight_decay: float | None
    clip: float | None
    loss: Literal["dpo", "ipo", "simpo", "orpo"] | None
    beta: float | None
    parallel: str | None
    card_memory: float | None
    recompute: Literal["none", "select", "full"] | None
    offload: Literal["none", "optimizer"] | None
    out: Place | None
    format: Literal["ckpt", "safetensors"] | None
    seed: int | None
    resume: Place | None
    allow: Sequence[str] | None
    save_every: int | None
    keep: int | None
    max_time: float | str | None
    on_nan: Literal["stop", "skip", "rewind"] | None
    spike: float | None
    tracker: Literal["tensorboard", "mlflow", "swanlab", "wandb"] | None
    device: Literal["cpu", "ascend"] | None
    compile_cache: bool | None
    memory_check: bool | None
    settings: Mapping[str, object] | None
    """Any other key, as --set: {"optim.beta2": 0.95}."""


ELSEWHERE = {
    "dry_run": "`petrun train --dry-run` prints the plan",
    "preflight": "`petrun train --preflight` checks hosts and ranks",
    **dict.fromkeys(
        ("cards", "hosts", "host_rank", "master_addr", "master_port", "rank_table", "max_restarts", "grace", "log_dir"),
        "a program is one process; `petrun train --cards` starts the ranks of a job",
    ),
}
"""Flags of the command that are no keywords, and why."""


def train(
    recipe: Place | None = None,
    *,
    quiet: bool = False,
    callback: Callable[[Mapping[str, object]], object] | None = None,
    **options: Unpack[TrainOptions],
) -> RunRecord:
    """Fine-tune a base with a delta algorithm, as `petrun train` does, and return what its run folder holds.

        run = petrun.train(algo="lora", rank=8, base="./llama", data="train.jsonl", eval_data="dev.jsonl", epochs=3)
        run.delta, run.before, run.after, run.losses

    `recipe`: a YAML file, or the name of a shipped recipe. Without base and data the embedded base is tuned on the embedded task.
    `quiet`: nothing is printed. `callback`: gets each record of the log, of a step or an evaluation; the run ends after a step for which it
    returns what counts as true, and by what it raises. A run that ended at `max_time` is not `finished`, and `resume` goes on with it.
    Raises PetrunError: ConfigError for settings, DataError for rows, TrainingError where nothing was learned, and its other kinds.
    """
    for name in ELSEWHERE.keys() & options.keys():
        raise ConfigError(f"petrun.train({name}=...): is not for programs", hint=f"{ELSEWHERE[name]}.")
    own = {"recipe": None if recipe is None else os.fspath(recipe), "callback": callback}
    settings = settings_of(cli.COMMAND, "train", options, **own)
    with called_by_program(quiet):
        from petrun.commands.train import run
        from petrun.training.run_record import read_run

        folder = run(settings)
        place = settings.resume if folder is None else folder.path
        assert place is not None, "a run that is neither a dry run nor a finished one has a folder"
        return read_run(place)
