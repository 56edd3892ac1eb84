"""`petrun data score`: a score for each row, in a file of its own."""

from __future__ import annotations

from pathlib import Path

from petrun.config.commands.data_scores import SCORES, ScoreSettings
from petrun.curation.parts import PartReader
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import print_scores, write_scores
from petrun.curation.scoring import score_difficulty, score_reward, score_similarity
from petrun.errors import ConfigError, did_you_mean
from petrun.tensors.output import check_file

SIMILARITY, REWARD = "similarity", "reward"
_OF_ALL = ("device", "compile_cache", "eval.batch_size")
"""Settings of a run that all kinds of scores read; the others are for losses."""


def run(given: ScoreSettings) -> None:
    """Score the rows and write the scores. Raises ConfigError, DataError, ModelError, OutputError, WeightsError."""
    kind, _, model = given.by.partition(":")
    if given.by not in SCORES and kind != REWARD:
        raise ConfigError(f"--by {given.by}: no such score", hint=did_you_mean(given.by, (*SCORES, f"{REWARD}:MODEL")))
    if kind == REWARD and not model:
        raise ConfigError("--by reward: the model is missing", hint="Example: --by reward:./reward-model")
    if given.out is None:
        raise ConfigError("--out is missing: the file of scores to write", hint="Example: --out scores.jsonl")
    _refuse_idle(given, kind)
    files = RowFiles(given.files, STOP, columns=PartReader(source=given.source, target=given.target).columns)
    check_file("--out", given.out, files.inputs)
    out = Path(given.out).expanduser()
    if kind == REWARD:
        scored = score_reward(given, files, model)
    else:
        scored = score_similarity(given, files) if kind == SIMILARITY else score_difficulty(given, out)
    write_scores(out, scored.header, files.digests(), scored.rows)
    Path(f"{out}.partial").unlink(missing_ok=True)
    print_scores(given.out, scored)


def _refuse_idle(given: ScoreSettings, kind: str) -> None:
    """Raises ConfigError for options that this kind of score does not read."""
    of_columns: dict[str, object] = {"--source": given.source, "--target": given.target}
    of_vectors: dict[str, object] = {"--encoder": given.encoder, "--against": given.against, "--margin": given.margin}
    of_losses: dict[str, object] = {"--delta": given.delta, "--alpha": given.alpha, "--direct": given.direct}
    of_losses |= {flag: True for key, (flag, _) in given.flags.items() if key not in _OF_ALL}
    idle = {SIMILARITY: of_losses, REWARD: of_losses | of_vectors}.get(kind, of_vectors | of_columns)
    for flag, value in idle.items():
        if value:
            raise ConfigError(f"{flag} has no effect on --by {kind}", hint="Leave it out.")
    if kind == SIMILARITY and given.encoder is None:
        raise ConfigError("--by similarity needs --encoder: a folder of sentence-transformers")
    if given.margin and given.against:
        raise ConfigError(
            "--margin compares the two sides of a row, and --against compares rows with files: give one of them"
        )
