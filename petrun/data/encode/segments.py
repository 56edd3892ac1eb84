"""Encode text in segments, some of them supervised, to token ids and labels of a row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice

from petrun.data.examples.example_set import IGNORED
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextSegment:
    """A stretch of rendered text; neighbours differ in `supervised`."""

    text: str
    supervised: bool


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """Settings by which rows of text become tokens."""

    tokenizer: Tokenizer
    limit: int
    """Most tokens of a row."""
    template: Template | None = None
    loss_on: str = "completion"
    generation: bool = False
    """Only the prompt is tokenised; it is cut from the left."""
    need_target: bool = True
    decoder_start: int | None = None
    """As in ExampleSettings."""


def tokenise_segments(segments: list[list[TextSegment]], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Tokenise every segment: one batch for all segments that begin a row, one for those that follow."""
    # A row begins with its first segment that holds text.
    starts = [next((k for k, segment in enumerate(row) if segment.text), 0) for row in segments]
    firsts = [row[start].text if row else "" for row, start in zip(segments, starts, strict=True)]
    later = [
        (row[k].text, next((segment.text for segment in reversed(row[:k]) if segment.text), ""))
        for row, start in zip(segments, starts, strict=True)
        for k in range(start + 1, len(row))
    ]
    begun = tokenizer.encode_many(firsts, special=False).ids
    continued = iter(tokenizer.encode_continuations([text for text, _ in later], [before for _, before in later]))
    return [
        [*([] for _ in range(start)), first, *(next(continued) for _ in row[start + 1 :])]
        for first, start, row in zip(begun, starts, segments, strict=True)
    ]


def join_segments(
    segments: list[TextSegment], ids: list[list[int]], settings: EncodeSettings, *, chat: bool
) -> tuple[list[int], list[int]]:
    """Join the segments to (input_ids, labels) of one row. Chat templates write BOS and end of turn; a BOS or EOS in the text is not
    repeated.
    """
    tokenizer = settings.tokenizer
    whole = _opening(ids, settings, chat=chat)
    labels = list(whole) if settings.loss_on == "all" else [IGNORED] * len(whole)
    ends = tokenizer.special_ids | {tokenizer.eos_id}
    last = max((k for k, segment in enumerate(segments) if segment.supervised), default=-1)
    for k, segment in enumerate(segments):
        part = ids[k]
        # Text after the last learned turn continues the row.
        closing = k == last and not any(later.text.strip() for later in segments[k + 1 :])
        if closing and tokenizer.eos_id is not None and part[-1:] != [tokenizer.eos_id]:
            part = part if chat and part and part[-1] in ends else [*part, tokenizer.eos_id]
        whole += part
        labels += part if segment.supervised or settings.loss_on == "all" else [IGNORED] * len(part)
    return whole, labels


def _opening(ids: list[list[int]], settings: EncodeSettings, *, chat: bool) -> list[int]:
    tokenizer = settings.tokenizer
    first = islice(chain.from_iterable(ids), len(tokenizer.prefix_ids))
    return [] if chat else tokenizer.begin_ids(list(first))


def prompt_tokens(segments: list[TextSegment], ids: list[list[int]], settings: EncodeSettings, chat: bool) -> int:
    count = len(_opening(ids, settings, chat=chat))
    for segment, part in zip(segments, ids, strict=True):
        if segment.supervised:
            break
        count += len(part)
    return count
