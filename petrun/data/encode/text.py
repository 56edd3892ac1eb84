"""Encode texts and pairs of texts to be classified, and texts that a language model learns, to token ids.

Classification: ids are those of the tokenizer's post-processor, [CLS] ... [SEP] for BERT; of a pair the longer text is truncated first.

lm: prefix (BOS, where the post-processor writes one) + text + EOS, all scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.segments import EncodeSettings
from petrun.data.examples.collector import ExampleCollector, RowOrigin, TokenizedRow
from petrun.data.formats.records import Array
from petrun.errors import DataError

_STREAM_CHUNK = 8_000_000
_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")


def encode_text(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of classify: texts or pairs."""
    texts = rows.texts("text")
    cells: list[str] | list[tuple[str, str]] = texts
    if rows.schema.has("text_pair"):
        cells = list(zip(texts, rows.texts("text_pair"), strict=True))
    encoded = settings.tokenizer.encode_many(cells, longest=settings.limit)
    for i, (ids, types, cut) in enumerate(zip(encoded.ids, encoded.types, encoded.cut, strict=True)):
        if not ids:
            raise DataError(f"{rows.where(i)}: the text gives no tokens", hint="Empty rows cannot be classified.")
        out.counts["empty"] += not texts[i].strip()
        out.add(TokenizedRow(ids=ids, origin=rows.origin(i), types=types), was_cut=cut)


def encode_lm(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of lm, each of which is one document. Without targets (prediction) no EOS is added."""
    texts = rows.texts("text")
    tokenizer = settings.tokenizer
    end = [tokenizer.eos_id] if tokenizer.eos_id is not None and settings.need_target else []
    encoded = tokenizer.encode_many(texts, special=False)
    for i, ids in enumerate(encoded.ids):
        if not ids:
            if not settings.need_target:
                raise DataError(f"{rows.where(i)}: the text is empty")
            out.counts["empty"] += 1
            continue
        whole = [*tokenizer.begin_ids(ids), *ids, *(end if ids[-1:] != end else [])]
        out.add(TokenizedRow(ids=whole, origin=rows.origin(i), labels=whole))


def encode_stream(rows: FileRows, settings: EncodeSettings, out: ExampleCollector, max_rows: int | None) -> None:
    """Encode plain text for lm: one stream split into blocks of `limit` tokens, the last one shorter; only a BOS is added first.

    It is tokenised in chunks that end with a line, so that a large file does not take many times its size in memory.
    """
    found: list[Array] = []
    before = ""
    for chunk in _chunks(rows.records.stream or ""):
        if before:
            ids = settings.tokenizer.encode_continuations([chunk], [before])[0]
        else:
            begun = settings.tokenizer.encode(chunk, special=False)
            ids = [*settings.tokenizer.begin_ids(begun), *begun]
        found.append(np.array(ids, np.int32))
        before = chunk
    whole = np.concatenate(found) if found else np.zeros(0, np.int32)
    blocks = [whole[start : start + settings.limit] for start in range(0, len(whole), settings.limit)]
    if len(blocks) > 1 and len(blocks[-1]) < 2:
        # A single token predicts nothing.
        blocks.pop()
    for number, block in enumerate(blocks[:max_rows]):
        origin = RowOrigin(row=rows.first_row + number, file=rows.file, line=number + 1)
        out.add(TokenizedRow(ids=block, origin=origin, labels=block))


def _chunks(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = at + _STREAM_CHUNK
        # A chunk ends at a line end between two words, which a tokenizer's rules for white space do not cross.
        found = _LINE_END.search(text, end) if end < len(text) else None
        stop = found.start() if found else len(text)
        yield text[at:stop]
        at = stop
