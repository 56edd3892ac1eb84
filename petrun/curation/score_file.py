"""Write and read the file of scores: a first line that says what the numbers are, then one line a row.

    {"petrun_scores": 1, "by": "ifd", "formula": "s(A|Q) / s(A)", "direction": "...", "base": ..., "files": [{"file", "sha256"}, ...]}
    {"file": 0, "line": 7, "score": 0.83, "loss_with_question": 1.2, "loss_alone": 1.45, "tokens": 31}

`file` is the number of the file in `files`. A row without a score has `"score": null` and a reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from petrun import console
from petrun.curation.difficulty import DIFFICULTIES, HARDEST
from petrun.curation.reading import DataRow, RowFiles
from petrun.curation.writing import json_line
from petrun.errors import DataError
from petrun.inference.interrupted_pass import done_of
from petrun.tensors import atomic_file
from petrun.typing import JsonObject

_MARK = "petrun_scores"


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """What goes into a file of scores."""

    header: JsonObject
    rows: Sequence[JsonObject]
    """With file and line each, as place_of has them."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of the rows of some files."""

    header: JsonObject
    """What the numbers are; without `files`."""
    rows: Mapping[tuple[int, int], JsonObject] = field(repr=False)
    """(number of the file, line) -> score and what it was made of."""

    @property
    def by(self) -> str:
        return str(self.header["by"])


def place_of(files: RowFiles, row: DataRow) -> JsonObject:
    """Return where a row stands, as its line of a file of scores says it."""
    file, line = files.place(row)
    return {"file": file, "line": line}


def write_scores(out: str, scored: ScoredRows, files: RowFiles) -> None:
    """Write a file of scores, remove what was kept for it, and print what the scores are. Raises OutputError."""
    path = Path(out).expanduser()
    with atomic_file(path) as (file, _):
        file.write(json_line({_MARK: 1, **scored.header, "files": files.digests()}).encode())
        for row in scored.rows:
            file.write(json_line(row).encode())
    done_of(path).unlink(missing_ok=True)
    _print_scores(out, scored)


def _print_scores(out: str, scored: ScoredRows) -> None:
    """Print what the scores are, how they are distributed, and which rows have none."""
    numbers = sorted(row["score"] for row in scored.rows if row["score"] is not None)
    console.tell(f"{scored.header['by']} = {scored.header['formula']}: {scored.header['direction']}")
    if numbers:
        marks = [(name, f"{numbers[round(share * (len(numbers) - 1))]:.4f}") for name, share in
                 (("lowest", 0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("highest", 1))]  # fmt: skip
        console.tell(console.table(marks))
    reasons = [row["reason"] for row in scored.rows if row["score"] is None]
    for reason in dict.fromkeys(reasons):
        console.print(f"{reasons.count(reason):,} rows have no score: {reason}")
    if scored.header["by"] in DIFFICULTIES and numbers:
        above = sum(number > HARDEST for number in numbers)
        console.tell(
            f"{above:,} rows are above 1: their question makes the answer less likely; petrun data select drops them"
        )
    console.tell(f"wrote {len(scored.rows):,} scores to {out}")


def read_scores(path: str, files: RowFiles) -> Scores:
    """Read the scores of these files. Raises DataError for another file, and for scores of rows that have changed."""
    given = Path(path).expanduser()
    if not given.is_file():
        raise DataError(f"{path}: no such file of scores", hint="petrun data score FILE --by ifd --base B --out SCORES")
    with given.open(encoding="utf-8", errors="replace") as lines:
        header = _entry(next(lines, ""), f"{path}, line 1")
        if header.pop(_MARK, None) != 1 or "by" not in header:
            raise DataError(f"{path}: is not a file of scores", hint="petrun data score writes one.")
        scored = header.pop("files", [])
        if [one.get("sha256") for one in scored] != [one["sha256"] for one in files.digests()]:
            names = ", ".join(str(one.get("file")) for one in scored)
            raise DataError(
                f"{path}: holds the scores of {names}, and these files are not the same",
                hint="Give the files that were scored, in their order and unchanged; or score these.",
            )
        rows = {}
        for number, line in enumerate(lines, 2):
            entry = _entry(line, f"{path}, line {number}")
            rows[entry["file"], entry["line"]] = entry
    return Scores(header=header, rows=rows)


def _entry(line: str, where: str) -> JsonObject:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no line of a file of scores: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: is no line of a file of scores")
    return found
