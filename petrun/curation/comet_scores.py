"""Score translations in files of rows by COMET: rows of two sides, or rows with predictions of them."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.config.commands.data_scores import ScoreSettings
from petrun.curation.comet_model import find_comet_model
from petrun.curation.parts import NO_PARTS, PartReader
from petrun.curation.reading import RowFiles
from petrun.curation.score_file import ScoredRows, place_of
from petrun.data.formats.jsonl import JSONL
from petrun.data.formats.table import read_records
from petrun.errors import ConfigError, DataError
from petrun.typing import JsonObject

_BATCH_ROWS = 16


def score_comet(given: ScoreSettings, files: RowFiles, model: str) -> ScoredRows:
    """Score every row: its question is the source, and its answer the translation, or with predictions the reference.

    Raises: ConfigError, DataError, SetupError naming what COMET lacks.
    """
    size = int(str(given.flags.get("eval.batch_size", ("", _BATCH_ROWS))[1]))
    if size < 1:
        raise ConfigError(f"--batch-size {size} is below 1")
    comet = find_comet_model(model, given.encoder, given.comet_python)
    predicted = None if given.predictions is None else read_predictions(given.predictions)
    reader = PartReader(source=given.source, target=given.target)
    entries: list[JsonObject] = []
    samples: list[JsonObject] = []
    scored: list[int] = []
    for i, row in enumerate(files):
        parts = reader(row)
        entries.append({**place_of(files, row), "score": None, "reason": NO_PARTS})
        sample = {"src": parts.question, "mt": parts.answer}
        if predicted is not None:
            if i not in predicted:
                raise DataError(
                    f"{given.predictions}: holds no prediction of row {i}, {row.where}",
                    hint="Predict these rows again.",
                )
            sample = {"src": parts.question, "mt": predicted[i], "ref": parts.answer}
        if all(text.strip() for name, text in sample.items() if name != "mt" or predicted is None):
            samples.append(sample)
            scored.append(i)
    if predicted is not None and len(predicted) > len(entries):
        raise DataError(f"{given.predictions}: holds {len(predicted)} predictions, and there are {len(entries)} rows")
    found: JsonObject = {"scores": [], "version": None}
    if samples:
        console.print(f"COMET scores {len(samples):,} rows in a process of its own")
        found = comet(samples, size)
    for i, score in zip(scored, found["scores"], strict=True):
        entries[i] = {"file": entries[i]["file"], "line": entries[i]["line"], "score": score}
    header: JsonObject = {
        "by": "comet",
        "formula": f"{comet.kind} of {Path(model).name}, unbabel-comet {found['version']}"
        + (", without references" if predicted is None else ", with references"),
        "direction": "high is good",
        "base": model,
        "base_digest": comet.digest(),
        "encoder": str(comet.encoder),
        "predictions": given.predictions,
    }
    if scored:
        header["mean"] = sum(found["scores"]) / len(scored)
        console.print(f"mean over {len(scored):,} rows: {header['mean']:.4f}")
    return ScoredRows(header=header, rows=entries)


def read_predictions(path: str) -> dict[int, str]:
    """Read what `petrun predict` wrote of rows of instruct: number of a row -> its text. Raises DataError naming the line."""
    records = read_records(Path(path).expanduser(), format=JSONL.name)
    found: dict[int, str] = {}
    for i, entry in enumerate(records.rows):
        if not isinstance(entry.get("prediction"), str) or not isinstance(entry.get("row"), int):
            raise DataError(
                f"{records.where(i)}: holds no row with a prediction",
                hint="petrun predict --task instruct writes them.",
            )
        found[entry["row"]] = entry["prediction"]
    return found
