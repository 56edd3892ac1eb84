"""`petrun vocab merge`: a base whose vocabulary has more pieces."""

from __future__ import annotations

import time
from pathlib import Path

from petrun import console
from petrun.checkpoint.vocabulary import COPY, MEAN, NOISE, write_extended
from petrun.config.commands.vocab import MergeVocabSettings
from petrun.config.effect import require_effect
from petrun.curation.parts import PartReader
from petrun.curation.reading import RowFiles
from petrun.curation.vocabulary import read_tokenizer_json, token_rate
from petrun.data.tokenizers.extension import extend_tokenizer
from petrun.errors import ConfigError, did_you_mean
from petrun.models.factory import read_model_config
from petrun.tensors.atomic import refuse_occupied

_HOW = (MEAN, NOISE, COPY)


def run(given: MergeVocabSettings) -> None:
    """Append the pieces, and write the new base. Raises ConfigError, DataError, ModelError, OutputError, WeightsError."""
    for flag, value in (("--base", given.base), ("--tokenizer", given.tokenizer), ("--out", given.out)):
        if value is None:
            raise ConfigError(f"{flag} is missing", hint="petrun vocab merge --base B --tokenizer T --out B2")
    assert given.base is not None and given.tokenizer is not None and given.out is not None
    if given.init not in _HOW:
        raise ConfigError(f"--init {given.init}: no such start", hint=did_you_mean(given.init, _HOW))
    if given.init != NOISE:
        require_effect(given, ("seed",), f"on --init {given.init}, which draws nothing")
    out, base = Path(given.out).expanduser(), Path(given.base).expanduser()
    refuse_occupied(out)
    reader = PartReader()
    texts = [reader(row).text for row in RowFiles(given.held_out)] if given.held_out else []
    config = read_model_config(base)
    before = read_tokenizer_json(given.base)
    made = extend_tokenizer(before, read_tokenizer_json(given.tokenizer))
    began = time.perf_counter()
    with console.working("writing the base"):
        written = write_extended(base, config, made, out, given.init, given.seed)
    seconds = time.perf_counter() - began
    console.tell(
        f"appended {len(made.pieces):,} pieces, ids {made.pieces[0].id:,} to {made.pieces[-1].id:,}; left out {made.known:,} that the base "
        f"has, {made.ascii:,} of ASCII alone, {made.unreachable:,} that no merge makes"
    )
    console.tell(
        f"{', '.join(written.tables)}: {written.old_rows:,} -> {written.rows:,} rows, new ones by {given.init}"
    )
    if written.unknown:
        console.print(f"{written.unknown:,} pieces that the base knew nothing of have the mean of all rows")
    if texts:
        old, new = token_rate(before, texts), token_rate(made.content, texts)
        less = 1 - new.tokens / max(old.tokens, 1)
        console.tell(
            f"tokens per character: {old.per_character:.3f} before, {new.per_character:.3f} after, {less:.0%} fewer"
        )
    console.tell(f"wrote {out} in {seconds:.1f} s")
