"""`petrun data rate`: a rating of each row from 1 to 5, in a file of scores."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.config.commands.data_scores import RATINGS, RateSettings
from petrun.config.commands.text import SessionSettings
from petrun.config.effect import require_effect
from petrun.curation.parts import PartReader
from petrun.curation.rating import EXPECTED, LEVELS, Rater, doubt, rating_prompt
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import ScoredRows, place_of, write_scores
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.assembly import delta_if_given
from petrun.inference.generation.session import Decoding, Session
from petrun.inference.interrupted_pass import done_of
from petrun.tensors.output import check_file
from petrun.typing import JsonObject


def run(given: RateSettings) -> None:
    """Rate the rows and write the ratings. Raises ConfigError, DataError, DeltaError, ModelError, OutputError."""
    out = _check(given)
    reader = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, STOP, columns=reader.columns)
    read = [Path(path).expanduser() for path in (given.delta, given.prompt) if path is not None]
    check_file("--out", given.out, [*files.inputs, *read])
    prompt = rating_prompt(given.prompt, given.by)
    delta = delta_if_given(given.delta, None, None)
    session = Session.load(
        SessionSettings(
            base=given.base,
            deltas=() if given.delta is None else (given.delta,),
            batch_size=given.batch_size,
            device=given.device,
            no_compile_cache=given.no_compile_cache,
        )
    )
    if given.delta is not None:
        session.use(session.names[0])
    header = _header(given, prompt) | {
        "base": given.base or "the embedded base",
        "base_digest": session.loaded.base_digest,
        "delta": given.delta,
        "delta_digest": delta.digest if delta is not None else None,
        "template": session.template().name,
    }
    decoding = Decoding(
        max_new_tokens=given.max_new_tokens if given.by != EXPECTED else 1,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
    )
    rater = Rater(session=session, by=given.by, prompt=prompt, decoding=decoding, samples=given.samples, reader=reader)
    done, told = done_of(out), console.progress("rate")
    count, rows = sum(1 for _ in files), []
    for each in rater(files, done, (files.digests(), header, given.source, given.target)):
        rows.append({**place_of(files, each.row), **each.found})
        told(len(rows), count)
    write_scores(str(given.out), ScoredRows(header=header, rows=rows), files)
    if (note := doubt(rows)) is not None:
        console.print(note)


def _check(given: RateSettings) -> Path:
    """Return the file to write. Raises ConfigError for what is missing, unknown or without effect."""
    if given.by not in RATINGS:
        raise ConfigError(f"--by {given.by}: no such rating", hint=did_you_mean(given.by, RATINGS))
    if given.out is None:
        raise ConfigError("--out is missing: the file of scores to write", hint="Example: --out ratings.jsonl")
    if given.by == EXPECTED:
        require_effect(
            given,
            ("samples", "max_new_tokens", "temperature", "top_p", "seed"),
            "on --by expected, which draws nothing",
        )
    elif given.temperature == 0:
        require_effect(given, ("samples", "top_p", "seed"), "at temperature 0, which takes the likeliest token")
    return Path(given.out).expanduser()


def _header(given: RateSettings, prompt: str) -> JsonObject:
    header: JsonObject = {"by": "rating", "direction": "high is good", "prompt": prompt}
    if given.by == EXPECTED:
        return header | {
            "formula": f"expected value of 1 to {len(LEVELS)} over the model's probabilities of the digits"
        }
    return header | {
        "formula": f"mean of {given.samples} generated ratings" if given.samples > 1 else "the generated rating",
        "max_new_tokens": given.max_new_tokens,
        "temperature": given.temperature,
        "top_p": given.top_p,
        "seed": given.seed,
    }
