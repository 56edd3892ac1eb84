"""`petrun job`."""

from __future__ import annotations

from collections.abc import Sequence

from petrun.cli import train
from petrun.cli.command import ANYWHERE, Command
from petrun.config.commands.job import JobSettings, TrainLine
from petrun.errors import ConfigError

_OURS = ("--cards", "--hosts", "--host-rank", "--master-addr", "--master-port", "--rank-table")


def job(settings: JobSettings) -> None:
    """Write the manifest or script that submits a training job; its command line is checked first.

    petrun job --to slurm --cards 16 --hosts 2 --out job.sh -- --algo lora --rank 8 --base ./llama --data train.jsonl
    """
    line = _train_line(settings.line)
    from petrun.commands.job import run

    run(settings, line)


def _train_line(line: Sequence[str]) -> TrainLine:
    """Return the arguments of `petrun train`, parsed. Raises ConfigError, or the errors of the parser of the command line."""
    arguments = list(line)
    for word in ("petrun", "train"):
        if arguments[:1] == [word]:
            del arguments[0]
    ours = [flag for flag in _OURS if any(word == flag or word.startswith(f"{flag}=") for word in arguments)]
    if ours:
        raise ConfigError(
            f"{', '.join(ours)} after --: each host gets its own",
            hint="Give --cards, --hosts and --master-port before --; the rest is written by petrun job.",
        )
    read = [word for word in arguments if word not in ANYWHERE]
    typed = train.COMMAND.typer_command().make_context("petrun train", read).params
    return TrainLine(arguments=arguments, settings=train.COMMAND.settings_of(typed))


COMMAND = Command(
    name="job",
    settings=JobSettings,
    run=job,
    options=(
        "line", "to", "name", "cards", "hosts", "master_addr", "master_port", "setup", "workdir", "memory", "cpus", "queue", "time",
        "restarts", "gres", "image", "mount", "namespace", "node_selector", "ring_controller", "runtime_class", "out", "force",
    ),
)  # fmt: skip
