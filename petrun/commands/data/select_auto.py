"""The first two steps of self-guided selection, each kept in a folder beside the result: a short training on different rows, and the scores
that its delta gives to all.

Source: Li et al., "From Quantity to Quality", NAACL 2024 (arXiv:2308.12032), section 2.1: k-means in 100 groups, 10
rows of each, one epoch.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from petrun import console
from petrun.checkpoint.run_files import RESULTS
from petrun.commands import train
from petrun.config.commands.data_scores import ScoreSettings, SelectSettings
from petrun.config.commands.train import TrainSettings
from petrun.config.options import Flags
from petrun.curation.parts import PartReader
from petrun.curation.reading import RowFiles
from petrun.curation.score_file import print_scores, write_scores
from petrun.curation.scoring import of_encoder, question_vectors, score_difficulty
from petrun.curation.selection import best_of_groups, cluster
from petrun.curation.writing import json_line
from petrun.errors import ConfigError, DataError, OutputError
from petrun.inference.settings import READ_KEYS
from petrun.tensors import atomic_file
from petrun.tensors.output import write_text
from petrun.typing import JsonObject

FOLDER = "auto"
_GROUPS, _ROWS_OF_GROUP, _SHARE = 100, 10, 0.1
_STARTED = "auto.json"


def folder_of(out: Path) -> Path:
    """Return the folder in which the steps of a selection are kept."""
    return Path(f"{out}.{FOLDER}")


def make_scores(given: SelectSettings, files: RowFiles, out: Path) -> str:
    """Take the steps that are not done. Returns the path of the file of scores.

    Raises: ConfigError, DataError, OutputError where the folder holds another selection, and what a training raises.
    """
    folder = folder_of(out)
    _begin(folder, given, files)
    rows, run, scores = folder / "brief.jsonl", folder / "brief", folder / "scores.jsonl"
    if not rows.is_file():
        console.print("step 1 of 3: rows that differ, and a short training on them")
        _write_brief(given, files, rows)
    if not _is_trained(run):
        train.run(TrainSettings(recipe=given.recipe, flags=_training(given, rows, run), sets=given.sets))
    if not _is_trained(run):
        raise DataError(f"{run}: the training stopped before its end", hint="The same command goes on with it.")
    if not scores.is_file():
        console.print(f"step 2 of 3: {given.by} of all rows by the delta of that training")
        scored = score_difficulty(
            ScoreSettings(
                files=given.files, by=given.by, delta=str(run), flags=_of_base(given), sets=_read_again(given.sets)
            ),
            scores,
        )
        write_scores(scores, scored.header, files.digests(), scored.rows)
        scores.with_name(f"{scores.name}.partial").unlink(missing_ok=True)
        print_scores(str(scores), scored)
    console.print("step 3 of 3: the best rows")
    return str(scores)


def _begin(folder: Path, given: SelectSettings, files: RowFiles) -> None:
    """Make the folder, or check that its steps are of this selection. Raises OutputError."""
    base = given.flags.get("model.base")
    started = {
        "files": files.digests(),
        "by": given.by,
        "base": _content(str(base[1])) if base else "the embedded base",
        "encoder": _content(str(given.encoder)),
        "brief": given.brief,
        "seed": given.seed,
        "recipe": given.recipe,
        "flags": {key: value for key, (_, value) in given.flags.items()},
        "sets": list(given.sets),
    }
    # As they are read again: JSON knows no tuples.
    started = json.loads(json.dumps(started))
    path = folder / _STARTED
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if known is None and folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder}: is there, and holds no selection", hint="Remove it, or give another --out.")
    differing = [] if known is None else [name for name, value in started.items() if known.get(name) != value]
    if differing:
        raise OutputError(
            f"{folder}: holds the steps of a selection with other {', '.join(differing)}",
            hint="Remove it to begin again, or give another --out.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(started, indent=2, ensure_ascii=False) + "\n")


def _content(folder: str) -> list[object]:
    """Return what tells whether a folder's files have changed, without reading them."""
    place = Path(folder).expanduser()
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return [folder, *([str(path.relative_to(place)), path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def _write_brief(given: SelectSettings, files: RowFiles, path: Path) -> None:
    """Write as many rows of each group of similar questions, drawn by the seed. Raises ConfigError, DataError."""
    assert given.encoder is not None, "the command checks it"
    vectors = question_vectors(given.encoder, of_encoder(given.flags), files, PartReader())
    wanted = given.brief or min(_GROUPS * _ROWS_OF_GROUP, max(1, int(_SHARE * len(vectors))))
    if wanted > len(vectors):
        raise ConfigError(f"--brief {wanted:,}: there are {len(vectors):,} rows")
    groups = cluster(vectors, min(_GROUPS, wanted), given.seed)
    chosen = best_of_groups(np.random.default_rng(given.seed).random(len(vectors)).tolist(), groups, wanted)
    taken = set(chosen.tolist())
    with atomic_file(path) as (file, _):
        file.writelines(json_line(row.cells).encode() for i, row in enumerate(files) if i in taken)
    console.print(f"wrote {wanted:,} rows of {len(set(groups.tolist())):,} groups to {path}")


def _is_trained(run: Path) -> bool:
    return (run / RESULTS).is_file()


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
