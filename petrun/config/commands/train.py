"""`petrun train`, `petrun plan`, `petrun resume`, `petrun sweep` and `petrun rehearse`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.commands.launch import LAUNCH_FIELDS, LaunchOptions
from petrun.config.options import CLUSTER, COST, PARALLEL, RUN, RunKeys, SettingField, argument, option, split_list
from petrun.errors import ConfigError


def recipe_choices() -> list[str]:
    """Names of the shipped recipes."""
    from petrun.config.load import recipe_names

    return recipe_names()


def _recipe() -> SettingField:
    return argument(
        "A recipe: a YAML file, or the name of a shipped one (`petrun recipes ls`).",
        default=None,
        choices=recipe_choices,
    )


def _allow() -> SettingField:
    return option(
        "--allow",
        "Settings that may differ from what the run was begun with, comma-separated: optim.lr,data.path.",
        RUN,
        default=(),
        separated=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunKeys, LaunchOptions):
    """A run to train, or to resume."""

    recipe: str | None = _recipe()
    resume: str | None = option(
        "--resume",
        "Resume the unfinished run in this folder. An unfinished run of the same settings in --out is resumed without it.",
        RUN,
        choices=run_choices,
    )
    allow: tuple[str, ...] = _allow()
    dry_run: bool = option(
        "--dry-run",
        "Print the plan with the memory of a rank, the first rows with their loss mask, and the files of a run, then stop.",
        RUN,
        default=False,
    )
    preflight: bool = option(
        "--preflight",
        "Check what a job needs, a line each, then stop: cards, disk, and with --hosts versions, settings, files, clocks, addresses "
        "and a shared --out; at last a sum over all ranks. No base is loaded. Several hosts do that before every job.",
        CLUSTER,
        default=False,
    )
    callback: Callable[[Mapping[str, object]], object] | None = None
    """A function of a program: it gets each record of the log, and ends the run by a result that counts as true."""
    resume_command: str = "petrun train --resume"
    """How the user resumes a run: what stands before its folder."""

    @property
    def trains_nothing(self) -> bool:
        return self.dry_run or self.preflight


@dataclass(frozen=True, kw_only=True)
class PlanSettings(RunKeys):
    """A run that is planned, and the memory that it has to fit into."""

    recipe: str | None = _recipe()
    cards: int | None = option(
        "--cards", "Cards of the job. Default: dp * tp * pp of --parallel, else 1.", PARALLEL, low=1
    )
    fit: str | None = option(
        "--fit",
        "Memory that each rank may take, as 32G: propose batch, length, recompute and layout that fit, and why. Default: what is here, of "
        "a card 64G.",
        PARALLEL,
        metavar="SIZE",
    )
    on: str | None = option(
        "--on",
        "What the run costs on cards, as 8x910b: operations, hours, card-hours, for methods and layouts. Known: 910, 910b, 910b2, a100.",
        COST,
        metavar="CARDS",
    )
    utilisation: float | None = option(
        "--utilisation", "Share of the cards' peak that the run has. Default 0.3, an assumption.", COST
    )
    throughput: float | None = option(
        "--throughput", "Instead of it: tokens per second of one card, as the log of a run on it says.", COST
    )
    peak: float | None = option("--peak", "TFLOPS of one card in half precision, instead of the known one.", COST)
    price: float | None = option("--price", "Price of one card for one hour.", COST)
    as_json: bool = option("--json", "Print one JSON object.", RUN, default=False)


@dataclass(frozen=True, kw_only=True)
class ResumeSettings(RunKeys, LaunchOptions):
    """A run to resume, which its folder describes."""

    run_folder: str = argument("Folder of a run that did not finish.", metavar="RUN", choices=run_choices)
    verify: bool = option(
        "--verify", "Do the last steps once more, from the state before them, and compare every bit.", default=False
    )
    allow: tuple[str, ...] = _allow()

    def training(self) -> TrainSettings:
        """The same as `petrun train --resume` is told it."""
        launch = {name: getattr(self, name) for name in LAUNCH_FIELDS}
        return TrainSettings(
            flags=self.flags,
            sets=self.sets,
            resume=self.run_folder,
            allow=self.allow,
            resume_command="petrun resume",
            **launch,
        )


@dataclass(frozen=True, kw_only=True)
class SweepSettings(RunKeys):
    """What the runs of a sweep have in common, and the settings that they differ in."""

    recipe: str | None = _recipe()
    over: tuple[str, ...] = option(
        "--over",
        "A setting and its values, one run for each: lr=1e-4,3e-4 or delta.rank=4,8; of lists target=[[q,v],[q,k,v]]. Repeatable: every "
        "combination is a run.",
        RUN,
        default=(),
        metavar="KEY=VALUES",
    )
    halving: int | None = option(
        "--halving",
        "Successive halving: after a part of the steps only the best 1/N of the runs go on, by --set train.best_metric or the loss. "
        "Default: every run takes all its steps.",
        RUN,
        low=2,
        metavar="N",
    )
    dry_run: bool = option(
        "--dry-run", "Check the settings of every run, list their folders, and stop.", RUN, default=False
    )


@dataclass(frozen=True, kw_only=True)
class RehearseSettings(RunKeys):
    """Which ranks of a run's job are compiled, and where the results go."""

    recipe: str | None = _recipe()
    cards: int | None = option(
        "--cards", "Cards of the cluster. Default: dp * tp * pp of --parallel, else 8.", PARALLEL
    )
    ranks: str | None = option(
        "--ranks", "Ranks to compile, comma-separated: 0,8. Default: the first and the last.", PARALLEL
    )
    level: int = option(
        "--level",
        "0: compile only. 1: choose kernels and plan the memory as well. Default 1.",
        PARALLEL,
        default=1,
        low=0,
        high=1,
    )
    json_file: str | None = option("--json", "Write all that was found to this JSON file.", RUN)
    strategy_folder: str | None = option(
        "--strategy-out",
        "Write how the job cuts its parameters into this folder, a strategy file for each stage: petrun reshard --to-strategy cuts a "
        "base by it.",
        RUN,
    )
    compute: bool = option(
        "--compute",
        "Compile all ranks, compute their first --steps steps (default 3) on this machine's processor, and compare loss, gradients and "
        "updated values with those of one rank.",
        PARALLEL,
        default=False,
    )
    shrink: str | None = option(
        "--shrink",
        "With --compute: as many layers, as wide, with random weights: 2x64. Heads stay.",
        PARALLEL,
    )
    debug: bool = False
    """Show the tracebacks of the ranks."""

    def __post_init__(self) -> None:
        if self.shrink is not None and not self.compute:
            raise ConfigError(f"--shrink {self.shrink}: is for --compute", hint="Give --compute as well.")
        if self.ranks is not None and not all(rank.isascii() and rank.isdigit() for rank in split_list(self.ranks)):
            raise ConfigError(f"--ranks {self.ranks}: must be whole numbers with commas between", hint="--ranks 0,8")
        if self.cards is not None and self.cards < 1:
            raise ConfigError(f"--cards {self.cards}: must be at least 1")

    def rank_numbers(self) -> list[int] | None:
        """The ranks of --ranks; None where it was not given."""
        return None if self.ranks is None else [int(rank) for rank in split_list(self.ranks)]
