"""`petrun data score`: a score for each row, in a file of its own."""

from __future__ import annotations

from pathlib import Path

from petrun.config.commands.data_scores import SCORES, ScoreSettings
from petrun.curation.comet_scores import score_comet
from petrun.curation.parts import PartReader
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import write_scores
from petrun.curation.scoring import score_difficulty, score_reward, score_similarity
from petrun.errors import ConfigError, did_you_mean
from petrun.tensors.output import check_file

SIMILARITY, REWARD, COMET = "similarity", "reward", "comet"
_OF_COLUMNS = ("--source", "--target")
_OF_RUN = ("device", "compile_cache", "eval.batch_size")
_READ: dict[str, tuple[str, ...]] = {
    SIMILARITY: ("--encoder", "--against", "--margin", *_OF_COLUMNS, *_OF_RUN),
    REWARD: (*_OF_COLUMNS, *_OF_RUN),
    COMET: ("--encoder", "--predictions", "--comet-python", *_OF_COLUMNS, "eval.batch_size"),
}
"""Flags, and keys of a run, that a kind of scores reads; those by losses read the rest."""


def run(given: ScoreSettings) -> None:
    """Score the rows and write the scores. Raises ConfigError, DataError, ModelError, OutputError, WeightsError."""
    kind, _, model = given.by.partition(":")
    if given.by not in SCORES and kind not in (REWARD, COMET):
        raise ConfigError(
            f"--by {given.by}: no such score",
            hint=did_you_mean(given.by, (*SCORES, f"{REWARD}:MODEL", f"{COMET}:MODEL")),
        )
    if kind in (REWARD, COMET) and not model:
        raise ConfigError(f"--by {kind}: the model is missing", hint=f"Example: --by {kind}:./model")
    if given.out is None:
        raise ConfigError("--out is missing: the file of scores to write", hint="Example: --out scores.jsonl")
    _refuse_idle(given, kind)
    files = RowFiles(given.files, STOP, columns=PartReader(source=given.source, target=given.target).columns)
    predicted = [Path(given.predictions).expanduser()] if given.predictions else []
    check_file("--out", given.out, [*files.inputs, *predicted])
    if kind == REWARD:
        scored = score_reward(given, files, model)
    elif kind == COMET:
        scored = score_comet(given, files, model)
    elif kind == SIMILARITY:
        scored = score_similarity(given, files)
    else:
        scored = score_difficulty(given, Path(given.out).expanduser())
    write_scores(given.out, scored, files)


def _refuse_idle(given: ScoreSettings, kind: str) -> None:
    """Raises ConfigError for options that this kind of score does not read."""
    own = {
        "--source": given.source,
        "--target": given.target,
        "--encoder": given.encoder,
        "--against": given.against,
        "--margin": given.margin,
        "--predictions": given.predictions,
        "--comet-python": given.comet_python,
        "--delta": given.delta,
        "--alpha": given.alpha,
        "--direct": given.direct,
    }
    special = {flag for flags in _READ.values() for flag in flags} - set(_OF_RUN)
    read = _READ.get(kind, tuple(own.keys() - special) + tuple(given.flags))
    idle = [flag for flag, value in own.items() if value and flag not in read]
    idle += [flag for key, (flag, _) in given.flags.items() if key not in read]
    idle += [f"--set {text}" for text in given.sets if kind == COMET]
    if idle:
        raise ConfigError("\n".join(f"{flag} has no effect on --by {kind}" for flag in idle), hint="Leave it out.")
    if kind == SIMILARITY and given.encoder is None:
        raise ConfigError("--by similarity needs --encoder: a folder of sentence-transformers")
    if given.margin and given.against:
        raise ConfigError(
            "--margin compares the two sides of a row, and --against compares rows with files: give one of them"
        )
