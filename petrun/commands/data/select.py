"""`petrun data select`: the rows with the best scores, as a plain file of rows."""

from __future__ import annotations

import math

import numpy as np

from petrun import console
from petrun.commands.data.select_auto import make_scores
from petrun.config.commands.data_scores import SelectSettings
from petrun.config.effect import require_effect, require_no_run_keys
from petrun.curation.difficulty import DIFFICULTIES, HARDEST
from petrun.curation.output import check_out, row_output
from petrun.curation.parts import PartReader
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import Scores, read_scores
from petrun.curation.scoring import of_encoder, question_vectors
from petrun.curation.selection import best, best_of_groups, cluster, parse_top, rows_wanted
from petrun.errors import ConfigError, did_you_mean
from petrun.tensors import Array

NO_SCORE, NOT_CHOSEN = "no score", "not among the best"


def run(given: SelectSettings) -> None:
    """Choose, then write the rows in the files' order. Raises ConfigError, DataError, OutputError."""
    _check(given)
    reader = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, STOP, columns=reader.columns)
    out = check_out(given.out, files, given.scores)
    top = parse_top(given.top)
    scores = read_scores(given.scores or make_scores(given, files, out), files)
    places = [files.place(row) for row in files]
    most = given.most if given.most is not None else HARDEST if scores.by in DIFFICULTIES else math.inf
    least = given.least if given.least is not None else -math.inf
    reasons = [_reason(scores, place, least, most) for place in places]
    able = np.array([i for i, reason in enumerate(reasons) if reason is None], np.int64)
    wanted = rows_wanted(top, len(able))
    values = [float(scores.rows[places[i]]["score"]) for i in able]
    if given.diverse is None:
        chosen = able[best(values, wanted, lowest=given.lowest)]
    else:
        groups = cluster(_vectors(given, files, reader, set(able.tolist())), given.diverse, given.seed)
        chosen = able[best_of_groups(values, groups, wanted, lowest=given.lowest)]
    taken = set(chosen.tolist())
    settings = {
        "scores": scores.header,
        "top": given.top,
        "lowest": given.lowest,
        "min_score": given.least,
        "max_score": given.most,
    }
    settings |= {"diverse": given.diverse, "encoder": given.encoder, "seed": given.seed, "auto": given.auto}
    with row_output(out, files, "select", settings) as output:
        for i, row in enumerate(files):
            if i in taken:
                output.keep(row.cells)
            else:
                reason = reasons[i] or NOT_CHOSEN
                output.drop(row, reason, _problem(scores, places[i]))
    kept = [float(scores.rows[places[i]]["score"]) for i in chosen]
    console.tell(f"{scores.by} of the chosen rows: {min(kept):.4f} to {max(kept):.4f}")


def _check(given: SelectSettings) -> None:
    """Raises ConfigError for options that are missing, or without effect on a selection like this."""
    if given.auto:
        require_effect(given, ("scores", "source", "target"), "with --auto, which scores rows as training reads them")
        if given.by not in DIFFICULTIES:
            raise ConfigError(f"--by {given.by}: no such difficulty", hint=did_you_mean(given.by, DIFFICULTIES))
        if given.encoder is None:
            raise ConfigError("--auto needs --encoder: the first training takes questions that differ, by its vectors")
        return
    if given.scores is None:
        raise ConfigError(
            "--scores is missing",
            hint="petrun data score FILE --by ifd --base B --out SCORES writes it; --auto --base B --encoder E takes all steps.",
        )
    require_effect(given, ("by", "brief", "recipe"), "without --auto")
    idle = [flag for key, (flag, _) in given.flags.items() if key not in of_encoder(given.flags)]
    if idle:
        raise ConfigError("\n".join(f"{flag}: has no effect without --auto" for flag in idle), hint="Leave it out.")
    if (given.diverse is None) != (given.encoder is None):
        raise ConfigError("--diverse and --encoder belong together: questions are grouped by the encoder's vectors")
    if given.diverse is None:
        require_effect(given, ("seed",), "without --diverse")
        require_no_run_keys(given, "without --diverse")


def _reason(scores: Scores, place: tuple[int, int], least: float, most: float) -> str | None:
    """Return why a row cannot be chosen; None where it can."""
    score = scores.rows.get(place, {}).get("score")
    if score is None:
        return NO_SCORE
    if score > most:
        return f"score above {most:g}"
    return f"score below {least:g}" if score < least else None


def _problem(scores: Scores, place: tuple[int, int]) -> str:
    entry = scores.rows.get(place, {})
    if entry.get("score") is None:
        return str(entry.get("reason", "the file of scores does not name this row"))
    return f"{scores.by} {entry['score']:.6g}"


def _vectors(given: SelectSettings, files: RowFiles, reader: PartReader, rows: set[int]) -> Array:
    assert given.encoder is not None, "_check asks for it"
    # With --auto, settings are of the training.
    sets = () if given.auto else given.sets
    return question_vectors(given.encoder, of_encoder(given.flags), files, reader, sets=sets, rows=rows)
