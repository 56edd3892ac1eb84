"""`petrun data shots`: rows with examples before their questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from petrun import console
from petrun.config.commands.data import ShotsSettings
from petrun.config.effect import require_effect, require_no_run_keys
from petrun.curation.lengths import length_table, token_counter
from petrun.curation.output import RowOutput, check_out, row_output
from petrun.curation.reading import SKIP, STOP, DataRow, RowFiles
from petrun.curation.shots import NO_TURN, RANDOM, SIMILARITY, Pool, Turn, TurnReader, read_pool, shown
from petrun.curation.similarity import unit_vectors
from petrun.errors import ConfigError, DataError, did_you_mean
from petrun.inference.sentences.encoder import SentenceEncoder, open_sentence_encoder
from petrun.tensors import Array

_CHUNK_ROWS = 1024


def run(given: ShotsSettings) -> None:
    """Put examples before the questions. Raises ConfigError, DataError, ModelError, OutputError."""
    if given.by not in (RANDOM, SIMILARITY):
        raise ConfigError(f"--by {given.by}: no such choice", hint=did_you_mean(given.by, (RANDOM, SIMILARITY)))
    if (given.by == SIMILARITY) != (given.encoder is not None):
        raise ConfigError("--by similarity and --encoder belong together")
    if given.base is None:
        require_effect(given, ("seq_len",), "without --base, whose tokenizer counts tokens")
    if given.encoder is None:
        require_no_run_keys(given, "without --encoder")
    else:
        require_effect(given, ("seed",), "on --by similarity, which draws nothing")
    files = RowFiles(given.files, given.on_bad_row or STOP)
    sources = RowFiles(given.pool, files.on_bad_row) if given.pool else files
    out = check_out(given.out, files, *given.pool, *given.against)
    pool = read_pool(sources, RowFiles(given.against) if given.against else (), quiet=sources is files)
    encoder = open_sentence_encoder(given.encoder, given.flags, given.sets) if given.encoder is not None else None
    settings = {
        "shots": given.shots,
        "by": given.by,
        "seed": given.seed,
        "encoder": encoder.digest if encoder else None,
    }
    settings |= {"pool": sources.digests(), "against": RowFiles(given.against).digests() if given.against else []}
    lengths: list[tuple[str, str]] = []
    with row_output(out, files, "shots", settings) as output:
        reader = TurnReader()
        for row, turn, examples in _examples(files, reader, pool, encoder, given, output):
            if len(examples) < given.shots:
                raise DataError(
                    f"{row.where}: the pool has {len(examples)} examples with another question, fewer than --shots {given.shots}"
                )
            text = shown(examples)
            output.keep(reader.with_text(row, text))
            if given.base is not None:
                lengths.append((f"{turn.question}\n{turn.answer}", text))
    if given.base is not None:
        sides = {
            "without examples": [row for row, _ in lengths],
            "with examples": [text + row for row, text in lengths],
        }
        console.tell(length_table(sides, token_counter(given.base), given.seq_len))


def _examples(
    files: RowFiles,
    reader: TurnReader,
    pool: Pool,
    encoder: SentenceEncoder | None,
    given: ShotsSettings,
    output: RowOutput,
) -> Iterator[tuple[DataRow, Turn, list[Turn]]]:
    """Yield (row, its turn, its examples)."""
    rows = _turns(files, reader, output)
    if encoder is None:
        for number, (row, turn) in enumerate(rows):
            yield row, turn, pool.random(number, turn.key, given.shots, given.seed)
        return
    vectors = _vectors(encoder, pool.turns)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        queries = _vectors(encoder, [turn for _, turn in chunk])
        found = pool.similar([turn.key for _, turn in chunk], queries, vectors, given.shots)
        for (row, turn), examples in zip(chunk, found, strict=True):
            yield row, turn, examples


def _turns(files: RowFiles, reader: TurnReader, output: RowOutput) -> Iterator[tuple[DataRow, Turn]]:
    for row in files.rows(output.drop_unreadable):
        try:
            yield row, reader(row)
        except DataError as error:
            if files.on_bad_row != SKIP:
                raise
            output.drop(row, NO_TURN, error.message)


def _vectors(encoder: SentenceEncoder, turns: Sequence[Turn]) -> Array:
    return unit_vectors(encoder.encode([turn.question for turn in turns], console.progress("encode")))
