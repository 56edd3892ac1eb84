"""Tokenise the rows of files chunk by chunk: two threads encode, while the chunks before are put away in order.

Most of the time is spent in the tokenizers library, which uses all cores and no Python; the other thread prepares the next texts, or turns
the last ids into arrays, in the meantime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.data.chat.end_of_turn import find_end_of_turn
from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.instruct import encode_instruct
from petrun.data.encode.preference import encode_preference, with_prompts
from petrun.data.encode.segments import EncodeSettings
from petrun.data.encode.source_target import encode_sources, encode_token_sources
from petrun.data.encode.text import encode_lm, encode_stream, encode_text
from petrun.data.encode.tokens import encode_tokens
from petrun.data.encode.words import encode_words
from petrun.data.examples.collector import CollectSettings, ExampleBlock, ExampleCollector
from petrun.data.examples.example_set import STREAM, ExampleSet, sequences_per_row
from petrun.data.examples.set_builder import ExampleSetBuilder
from petrun.data.formats.records import Records
from petrun.data.rows.columns import RowSchema
from petrun.data.settings import ExampleSettings
from petrun.data.tasks import TOKENS
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer

_THREADS = 2
_AHEAD = 3
"""Chunks that are encoded or wait, finished, for one before them."""

_ENCODERS: Mapping[str, Callable[[FileRows, EncodeSettings, ExampleCollector], None]] = {
    "classify": encode_text,
    "lm": encode_lm,
    "instruct": encode_instruct,
    "preference": encode_preference,
    TOKENS: encode_words,
}


@dataclass(frozen=True, kw_only=True)
class RowTokeniser:
    """Tokenises rows of one kind. Labels of classification are added later, for all rows at once."""

    task: str
    tokenizer: Tokenizer | None
    template: Template | None
    settings: ExampleSettings
    folder: Path | None
    """Where large sets are kept while they grow; None: in memory."""

    def __call__(self, tables: list[Records], schemas: list[RowSchema], progress: Progress | None) -> ExampleSet:
        """Tokenise all rows of these files, in order. Raises DataError for the first row that cannot be used."""
        with closing(ExampleSetBuilder(self.folder)) as builder:
            return self._built(builder, tables, schemas, progress)

    def _built(
        self, builder: ExampleSetBuilder, tables: list[Records], schemas: list[RowSchema], progress: Progress | None
    ) -> ExampleSet:
        kind = schemas[0].kind.name
        first = 0
        for file, (table, schema) in enumerate(zip(tables, schemas, strict=True)):
            if self._is_stream(table, schema):
                kind, before = STREAM, builder.rows
                rows = FileRows(records=table, schema=schema, file=file, first_row=first)
                builder.extend(self._encoded_stream(rows))
                first += builder.rows - before
                continue
            done = 0
            for count, block in self._blocks(table, schema, file, first):
                builder.extend(block)
                done += count
                if progress is not None:
                    progress(done, len(table))
            first += len(table)
        if not builder.blocks:
            builder.extend(self._collector().block())
        return builder.finish(task=self.task, kind=kind, read=first)

    def _is_stream(self, table: Records, schema: RowSchema) -> bool:
        needed = self.settings.need_target and not self.settings.for_generation
        return self.task == "lm" and table.stream is not None and needed and not schema.kind.token_ids

    def _blocks(self, table: Records, schema: RowSchema, file: int, first: int) -> Iterator[tuple[int, ExampleBlock]]:
        """Yield (rows read, the block of them) of each chunk of a file, in order."""

        def encoded(start: int, stop: int) -> tuple[int, ExampleBlock]:
            part = table.loaded(start, stop)
            rows = FileRows(records=part, schema=schema, file=file, first_row=first + start)
            block = self._encoded(rows)
            # Notes tell of a file's first row.
            return stop - start, replace(block, notes=[]) if start else block

        bounds = table.chunks()
        if len(bounds) == 1:
            yield encoded(*bounds[0])
            return
        with ThreadPoolExecutor(_THREADS) as threads:
            waiting: deque[Future[tuple[int, ExampleBlock]]] = deque()
            try:
                for start, stop in bounds:
                    waiting.append(threads.submit(encoded, start, stop))
                    if len(waiting) == _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _encoded(self, rows: FileRows) -> ExampleBlock:
        out, settings = self._collector(), self.settings
        if rows.schema.kind.token_ids and settings.decoder_start is not None:
            encode_token_sources(rows, settings, self.tokenizer, out)
        elif rows.schema.kind.token_ids:
            encode_tokens(
                rows,
                out,
                classify=self.task == "classify",
                need_target=settings.need_target,
                generation=settings.for_generation,
                vocab_size=settings.vocab_size,
                tokenizer=self.tokenizer,
            )
        elif settings.decoder_start is not None:
            encode_sources(rows, self._encode_settings(), out)
        else:
            # Also where the chosen answers alone are read, or the prompts.
            rows = with_prompts(rows) if rows.schema.has("rejected") else rows
            encode = encode_instruct if settings.for_generation else _ENCODERS[self.task]
            encode(rows, self._encode_settings(), out)
        return out.block()

    def _encoded_stream(self, rows: FileRows) -> ExampleBlock:
        out = self._collector()
        encode_stream(rows, self._encode_settings(), out, self.settings.max_rows)
        return out.block()

    def _encode_settings(self) -> EncodeSettings:
        assert self.tokenizer is not None, "only rows of token ids go without a tokenizer"
        return EncodeSettings(
            tokenizer=self.tokenizer,
            limit=self.settings.seq_len,
            template=self.template,
            loss_on=self.settings.loss_on,
            generation=self.settings.for_generation,
            need_target=self.settings.need_target,
            decoder_start=self.settings.decoder_start,
        )

    def _longest(self) -> int:
        if self.settings.decoder_start is not None and not self.settings.for_generation:
            # A source, and a target behind the token that begins it: the encoder of rows has cut both.
            return 2 * self.settings.seq_len + 1
        return self.settings.seq_len * sequences_per_row(self.task)

    def _collector(self) -> ExampleCollector:
        tokenizer = self.tokenizer
        ends = find_end_of_turn(self.template, tokenizer).ids | frozenset(self.settings.eos_ids)
        if tokenizer and tokenizer.eos_id is not None:
            ends |= {tokenizer.eos_id}
        bos = (tokenizer.bos_id,) if tokenizer and tokenizer.bos_id is not None else ()
        return ExampleCollector(
            settings=CollectSettings(
                limit=self._longest(),
                ends=ends,
                decoder=self.task != "classify" and not self.settings.for_generation,
                openings=(tuple(tokenizer.prefix_ids), bos) if tokenizer else (),
            )
        )
