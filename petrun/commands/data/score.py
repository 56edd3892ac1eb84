"""`petrun data score`: a score for each row, in a file of its own."""

from __future__ import annotations

from pathlib import Path

from petrun.config.commands.data_scores import SCORES, ScoreSettings
from petrun.curation.parts import PartReader
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import print_scores, write_scores
from petrun.curation.scoring import score_difficulty, score_similarity
from petrun.errors import ConfigError, did_you_mean
from petrun.tensors.output import check_file

SIMILARITY = "similarity"
_OF_BOTH = ("device", "compile_cache", "eval.batch_size")
"""Settings of a run that both kinds of scores read; the others are for losses."""


def run(given: ScoreSettings) -> None:
    """Score the rows and write the scores. Raises ConfigError, DataError, ModelError, OutputError, WeightsError."""
    if given.by not in SCORES:
        raise ConfigError(f"--by {given.by}: no such score", hint=did_you_mean(given.by, SCORES))
    if given.out is None:
        raise ConfigError("--out is missing: the file of scores to write", hint="Example: --out scores.jsonl")
    _refuse_idle(given)
    files = RowFiles(given.files, STOP, columns=PartReader(source=given.source, target=given.target).columns)
    check_file("--out", given.out, files.inputs)
    out = Path(given.out).expanduser()
    scored = score_similarity(given, files) if given.by == SIMILARITY else score_difficulty(given, out)
    write_scores(out, scored.header, files.digests(), scored.rows)
    Path(f"{out}.partial").unlink(missing_ok=True)
    print_scores(given.out, scored)


def _refuse_idle(given: ScoreSettings) -> None:
    """Raises ConfigError for options that this score does not read."""
    of_vectors = {
        "--encoder": given.encoder,
        "--against": given.against,
        "--margin": given.margin,
        "--source": given.source,
        "--target": given.target,
    }
    of_losses = {"--delta": given.delta, "--alpha": given.alpha, "--direct": given.direct}
    of_losses |= {flag: True for key, (flag, _) in given.flags.items() if key not in _OF_BOTH}
    idle = of_losses if given.by == SIMILARITY else of_vectors
    for flag, value in idle.items():
        if value:
            raise ConfigError(f"{flag} has no effect on --by {given.by}", hint="Leave it out.")
    if given.by == SIMILARITY and given.encoder is None:
        raise ConfigError("--by similarity needs --encoder: a folder of sentence-transformers")
    if given.margin and given.against:
        raise ConfigError(
            "--margin compares the two sides of a row, and --against compares rows with files: give one of them"
        )
