"""The first two steps of self-guided selection, each kept in a folder beside the result: a short training on different rows, and the scores
that its delta gives to all.

Source: Li et al., "From Quantity to Quality", NAACL 2024 (arXiv:2308.12032), section 2.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from petrun import console
from petrun.checkpoint.run_files import is_finished
from petrun.commands import train
from petrun.config.commands.data_scores import ScoreSettings, SelectSettings
from petrun.config.commands.train import TrainSettings
from petrun.config.options import Flags
from petrun.curation.reading import RowFiles
from petrun.curation.score_file import write_scores
from petrun.curation.scoring import score_difficulty
from petrun.curation.self_guided import begin, write_brief
from petrun.errors import DataError
from petrun.inference.settings import READ_KEYS
from petrun.typing import JsonObject

FOLDER = "auto"


def folder_of(out: Path) -> Path:
    """Return the folder in which the steps of a selection are kept."""
    return Path(f"{out}.{FOLDER}")


def make_scores(given: SelectSettings, files: RowFiles, out: Path) -> str:
    """Take the steps that are not done. Returns the path of the file of scores.

    Raises: ConfigError, DataError, OutputError where the folder holds another selection, and what a training raises.
    """
    folder = folder_of(out)
    begin(folder, given, files)
    rows, run, scores = folder / "brief.jsonl", folder / "brief", folder / "scores.jsonl"
    if not rows.is_file():
        console.print("step 1 of 3: rows that differ, and a short training on them")
        write_brief(given, files, rows)
    if not is_finished(run):
        train.run(TrainSettings(recipe=given.recipe, flags=_training(given, rows, run), sets=given.sets))
    if not is_finished(run):
        raise DataError(f"{run}: the training stopped before its end", hint="The same command goes on with it.")
    if not scores.is_file():
        console.print(f"step 2 of 3: {given.by} of all rows by the delta of that training")
        scored = score_difficulty(
            ScoreSettings(
                files=given.files, by=given.by, delta=str(run), flags=_of_base(given), sets=_read_again(given.sets)
            ),
            scores,
        )
        write_scores(str(scores), scored, files)
    console.print("step 3 of 3: the best rows")
    return str(scores)


def _of_base(given: SelectSettings) -> JsonObject:
    return {key: value for key, value in given.flags.items() if key != "data.path"}


def _training(given: SelectSettings, rows: Path, run: Path) -> Flags:
    """Return the flags of the short training: where neither a recipe nor --set says otherwise, LoRA for an epoch."""
    own: dict[str, tuple[str, object]] = {"data.path": ("--auto", (str(rows),)), "out.dir": ("--auto", str(run))}
    named = {text.partition("=")[0] for text in given.sets}
    if "train.seed" not in named:
        own["train.seed"] = ("--seed", given.seed)
    if given.recipe is None:
        own["algo"] = ("--auto", "lora")
        if not named & {"train.steps", "train.epochs"}:
            own["train.epochs"] = ("--auto", 1.0)
    return {**_of_base(given), **own}


def _read_again(sets: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the settings that scoring reads too; the delta's manifest keeps what the training decided of the rows."""
    return tuple(text for text in sets if any(fnmatchcase(text.partition("=")[0], key) for key in READ_KEYS))
