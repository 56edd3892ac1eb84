"""Self-guided selection: the folder of its steps, and the rows that differ, on which it trains first.

Source: Li et al., "From Quantity to Quality", NAACL 2024 (arXiv:2308.12032), section 2.1: k-means in 100 groups, 10 rows of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.commands.data_scores import SelectSettings
from petrun.curation.parts import PartReader
from petrun.curation.reading import RowFiles
from petrun.curation.scoring import of_encoder, question_vectors
from petrun.curation.selection import best_of_groups, cluster
from petrun.curation.writing import json_line
from petrun.errors import ConfigError, OutputError
from petrun.tensors import atomic_file
from petrun.tensors.output import write_text

_GROUPS, _ROWS_OF_GROUP, _SHARE = 100, 10, 0.1
_STARTED = "auto.json"


def begin(folder: Path, given: SelectSettings, files: RowFiles) -> None:
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


def write_brief(given: SelectSettings, files: RowFiles, path: Path) -> None:
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
    console.tell(f"wrote {wanted:,} rows of {len(set(groups.tolist())):,} groups to {path}")
