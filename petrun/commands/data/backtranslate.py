"""`petrun data backtranslate`: texts become rows with the questions that a delta asks for them."""

from __future__ import annotations

from petrun import console
from petrun.config.commands.data import BacktranslateSettings
from petrun.config.commands.text import SessionSettings
from petrun.config.effect import require_effect
from petrun.curation.backtranslation import ask
from petrun.curation.output import check_out, row_output
from petrun.curation.reading import STOP, RowFiles
from petrun.errors import ConfigError
from petrun.inference.assembly import delta_if_given
from petrun.inference.generation.session import Decoding, Session
from petrun.inference.interrupted_pass import done_of
from petrun.typing import JsonObject


def run(given: BacktranslateSettings) -> None:
    """Ask for every text, and write prompt and completion. Raises ConfigError, DataError, DeltaError, OutputError."""
    if given.delta is None:
        raise ConfigError(
            "--delta is missing: a delta that was trained to ask",
            hint="petrun data convert rows.jsonl --swap --out swapped.jsonl, then petrun train --data swapped.jsonl",
        )
    if given.temperature == 0:
        require_effect(given, ("top_p", "seed"), "at temperature 0, which takes the likeliest token")
    files = RowFiles(given.files, given.on_bad_row or STOP)
    out = check_out(given.out, files, given.delta)
    how = Decoding(
        max_new_tokens=given.max_new_tokens, temperature=given.temperature, top_p=given.top_p, seed=given.seed
    )
    delta = delta_if_given(given.delta, None, None)
    session = Session.load(
        SessionSettings(
            base=given.base,
            deltas=(given.delta,),
            batch_size=given.batch_size,
            device=given.device,
            no_compile_cache=given.no_compile_cache,
        )
    )
    session.use(session.names[0])
    settings: JsonObject = {
        "base": given.base,
        "delta": given.delta,
        "delta_digest": delta.digest if delta else None,
        "seed": given.seed,
        "max_new_tokens": how.max_new_tokens,
        "temperature": how.temperature,
        "top_p": how.top_p,
    }
    done, asked = done_of(out), console.progress("ask")
    count = sum(1 for _ in files)
    with row_output(out, files, "backtranslate", settings) as output:
        key = (files.digests(), files.on_bad_row, settings)
        for number, each in enumerate(ask(session, files.rows(output.drop_unreadable), how, done, key), 1):
            if each.reason:
                output.drop(each.row, each.reason, each.problem)
            else:
                output.keep({"prompt": each.question, "completion": each.text})
            asked(number, count)
    done.unlink(missing_ok=True)
