"""Rows of one file -> token ids and labels.

Classification: what the tokenizer's post-processor makes of the text or pair, [CLS] ... [SEP] for BERT; pairs are cut longest first.

lm: prefix (BOS, where the post-processor writes one) + text + EOS, all scored.

instruct: prompt and completion are tokenised apart and joined, so that the prompt of generation is token for token the beginning
of the training row: prefix + prompt, then completion + EOS. The joined ids are those of the joined text, but where a token would
reach across a seam. A BOS or EOS that stands in the text already is not put there again. The completion alone is scored, or with
loss_on="all" the whole row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from petrun.data.chat.assistant_mask import ChatRenderer, Piece
from petrun.data.chat.messages import (
    WEIGHT,
    Conversation,
    as_messages,
    read_conversation,
    read_history,
    read_values,
    usual_order,
)
from petrun.data.examples.collector import Builder
from petrun.data.examples.example_set import IGNORED
from petrun.data.formats.records import Records
from petrun.data.rows.columns import Layout
from petrun.data.templates.template import Template, render_prompt, variables
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer
from petrun.errors import DataError

_STREAM_CHUNK = 8_000_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")


SOURCES = {"completion": "prompt", "instruction": "instruction", "reference": "input"}
"""Kind of the rows -> what a template calls the column that holds the user's words."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How rows become tokens: everything but the rows."""

    tokenizer: Tokenizer
    limit: int
    """Most tokens of a row."""
    template: Template | None = None
    loss_on: str = "completion"
    generation: bool = False
    """Only the prompt is tokenised; it is cut from the left."""
    need_target: bool = True


def encode_text(
    records: Records, layout: Layout, how: Encoding, out: Builder, first_row: int, file: int, progress: Progress | None
) -> None:
    """classify: text or pairs."""
    texts = [_string(records, i, layout.columns["text"]) for i in range(len(records))]
    if layout.kind == "pair":
        second = [_string(records, i, layout.columns["text_pair"]) for i in range(len(records))]
        rows: Any = list(zip(texts, second, strict=True))
    else:
        rows = texts
    encoded = how.tokenizer.encode_many(rows, longest=how.limit, progress=progress)
    for i, (ids, types, cut) in enumerate(zip(encoded.ids, encoded.types, encoded.cut, strict=True)):
        if not ids:
            raise DataError(f"{records.where(i)}: the text gives no tokens", hint="Empty rows cannot be classified.")
        out.counts["empty"] += not texts[i].strip()
        out.add(ids, place=(first_row + i, file, records.line(i)), types=types, was_cut=cut)


def encode_lm(
    records: Records, layout: Layout, how: Encoding, out: Builder, first_row: int, file: int, progress: Progress | None
) -> None:
    """lm: each row is one document. Without targets (prediction) it stays as it is, without an EOS."""
    texts = [_string(records, i, layout.columns["text"]) for i in range(len(records))]
    tokenizer = how.tokenizer
    end = [tokenizer.eos_id] if tokenizer.eos_id is not None and how.need_target else []
    encoded = tokenizer.encode_many(texts, special=False, progress=progress)
    for i, ids in enumerate(encoded.ids):
        if not ids:
            if not how.need_target:
                raise DataError(f"{records.where(i)}: the text is empty")
            out.counts["empty"] += 1
            continue
        whole = [*tokenizer.opening(ids), *ids, *(end if ids[-1:] != end else [])]
        out.add(whole, place=(first_row + i, file, records.line(i)), labels=whole)


def encode_stream(
    records: Records, how: Encoding, out: Builder, first_row: int, file: int, max_rows: int | None
) -> None:
    """lm on plain text: one stream cut into blocks of `limit` tokens, the last one shorter; only a BOS is added in front.

    Tokenised in chunks that end with a line, so that a large file does not take many times its size in memory.
    """
    ids: list[int] = []
    before = ""
    for chunk in _chunks(records.stream or ""):
        if before:
            ids += how.tokenizer.encode_continuations([chunk], [before])[0]
        else:
            begun = how.tokenizer.encode(chunk, special=False)
            ids += [*how.tokenizer.opening(begun), *begun]
        before = chunk
    blocks = [ids[start : start + how.limit] for start in range(0, len(ids), how.limit)]
    if len(blocks) > 1 and len(blocks[-1]) < 2:
        # One token alone predicts nothing.
        blocks.pop()
    for number, block in enumerate(blocks[:max_rows]):
        out.add(block, place=(first_row + number, file, number + 1), labels=block)


def _chunks(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = at + _STREAM_CHUNK
        # A line end between two words: a tokenizer's white space rules look no further than that.
        found = _LINE_END.search(text, end) if end < len(text) else None
        stop = found.start() if found else len(text)
        yield text[at:stop]
        at = stop


def encode_instruct(
    records: Records, layout: Layout, how: Encoding, out: Builder, first_row: int, file: int, progress: Progress | None
) -> None:
    """instruct: every kind of row that has a prompt."""
    renderer = (
        ChatRenderer(how.template, how.tokenizer.specials, how.tokenizer.special_texts)
        if how.template is not None and how.template.is_chat
        else None
    )
    pieces: list[list[Piece]] = []
    references: list[str | None] = []
    for i in range(len(records)):
        row, completion = _row_pieces(records, i, layout, how, renderer)
        pieces.append(row)
        references.append(completion)
    if renderer is not None:
        out.unread_keys |= renderer.unread
        out.notes += [renderer.note] if renderer.note else []
    ids = tokenise(pieces, how.tokenizer, progress)
    for i, row_pieces in enumerate(pieces):
        place = (first_row + i, file, records.line(i))
        reference = references[i]
        out.counts["empty"] += reference is not None and not reference.strip()
        whole, labels = joined(row_pieces, ids[i], how, chat=renderer is not None)
        if not whole:
            raise DataError(
                f"{records.where(i)}: the prompt is empty",
                hint="This tokenizer opens no sequence with a BOS token, so there is nothing to go on from.",
            )
        if how.generation:
            out.add(
                whole,
                place=place,
                prompt_length=len(whole),
                reference=reference,
                other_references=_other_references(records, i, layout),
                from_left=True,
            )
        else:
            scored = next((k for k, label in enumerate(labels) if label != IGNORED), len(whole))
            start = (
                scored if how.loss_on == "completion" else _prompt_tokens(row_pieces, ids[i], how, renderer is not None)
            )
            out.add(whole, place=place, labels=labels, prompt_length=start, reference=reference)


def _row_pieces(
    records: Records, i: int, layout: Layout, how: Encoding, renderer: ChatRenderer | None
) -> tuple[list[Piece], str | None]:
    """(the row's text in pieces, its completion)."""
    row, where = records.rows[i], records.where(i)
    if layout.kind == "text":
        return [Piece(_string(records, i, layout.columns["text"]), False)], None
    cells = {name: row.get(column) for name, column in layout.columns.items()}
    if records.format == "parquet":
        cells = {name: usual_order(cell) for name, cell in cells.items()}
    if layout.kind == "chat":
        assert renderer is not None, "find_template gives messages a chat template"
        found = read_conversation(cells, where)
        if how.loss_on == "all" and "messages" in cells and any(WEIGHT in message for message in found.messages):
            raise DataError(
                f"{where}: a message has weight 0, and data.loss_on=all learns whole rows",
                hint="Leave one of them out.",
            )
        return _chat_pieces(renderer, found, where, how)
    values = _template_values(records, i, layout)
    completion = None
    if layout.has("target") and (how.need_target or row.get(layout.columns["target"]) is not None):
        completion = _completions(records, i, layout.columns["target"])[0]
    if renderer is not None:
        # A chat template may ask for a second column by its name, as those of merged folders do.
        read, source = variables(renderer.template.text), SOURCES[layout.kind]
        beside = {name: values[name] for name in SOURCES.values() if name != source and values[name] and name in read}
        told = [values[name] for name in ("instruction", "prompt", "input") if values[name] and name not in beside]
        cells["messages"] = as_messages("\n\n".join(told), completion)
        found = read_conversation(cells, where)
        return _chat_pieces(renderer, replace(found, values={**found.values, **beside}), where, how)
    assert how.template is not None, "find_template gives every row with a prompt a template"
    prompt = Piece(prompt_text(how.template, values, cells, where), False)
    if how.generation or completion is None:
        return [prompt], completion
    return [prompt, Piece(completion, True)], completion


def _chat_pieces(
    renderer: ChatRenderer, row: Conversation, where: str, how: Encoding
) -> tuple[list[Piece], str | None]:
    learned = [message for message in row.messages if message["role"] == "assistant" and message.get(WEIGHT) != 0]
    if how.generation or (not how.need_target and not learned):
        return renderer.prompt(row.messages, where, row.values)
    pieces = renderer.pieces(row.messages, where, row.values)
    return pieces, renderer.reference(row.messages, where, row.values)


def _template_values(records: Records, i: int, layout: Layout) -> dict[str, Any]:
    """What a prompt template sees: all columns of the file, and the names that are always defined."""
    values = {**records.rows[i], "prompt": "", "instruction": "", "input": "", "system": ""}
    values[SOURCES[layout.kind]] = _string(records, i, layout.columns["source"])
    for optional in ("input", "system"):
        if layout.has(optional) and records.rows[i].get(layout.columns[optional]) is not None:
            values[optional] = _string(records, i, layout.columns[optional])
    return values


def prompt_text(template: Template, values: Mapping[str, Any], cells: Mapping[str, Any], where: str) -> str:
    """What a prompt template makes of a row.

    Inputs: `values`, what the template sees; `cells`, the row's cells under their canonical names.
    Raises: DataError where the template fails, and for a cell that changes what the row means and that the template does not read.
    """
    given = {"input": cells.get("input"), "system": cells.get("system"), **read_values(cells, where)}
    history = read_history(cells.get("history"), where)
    read = variables(template.text)
    for name, value in {**given, "history": history}.items():
        if value not in (None, "", []) and name not in read:
            raise DataError(
                f"{where}: the template {template.name} does not read {name}, which this row holds",
                hint=f"--template FILE with one that does, or leave it out: --set 'data.ignore=[{name}]'.",
            )
    return render_prompt(template, {**values, **read_values(cells, where), "history": history}, where)


def tokenise(pieces: list[list[Piece]], tokenizer: Tokenizer, progress: Progress | None) -> list[list[list[int]]]:
    """Ids of every piece: one batch for all pieces that begin a row, one for those that go on."""
    # A row begins with its first piece that holds text.
    starts = [next((k for k, piece in enumerate(row) if piece.text), 0) for row in pieces]
    firsts = [row[start].text if row else "" for row, start in zip(pieces, starts, strict=True)]
    later = [
        (row[k].text, next((piece.text for piece in reversed(row[:k]) if piece.text), ""))
        for row, start in zip(pieces, starts, strict=True)
        for k in range(start + 1, len(row))
    ]
    total = len(firsts) + len(later)
    done: Callable[[int, int], None] | None = None
    if progress is not None:
        report = progress

        def done(count: int, _: int) -> None:
            report(count * len(pieces) // total, len(pieces))

    begun = tokenizer.encode_many(firsts, special=False, progress=done).ids
    continued = iter(
        tokenizer.encode_continuations(
            [text for text, _ in later],
            [before for _, before in later],
            progress=(lambda count, _: done(len(firsts) + count, total)) if done else None,
        )
    )
    return [
        [*([] for _ in range(start)), first, *(next(continued) for _ in row[start + 1 :])]
        for first, start, row in zip(begun, starts, pieces, strict=True)
    ]


def joined(pieces: list[Piece], ids: list[list[int]], how: Encoding, *, chat: bool) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of one row. Chat templates write BOS and end of turn themselves; what stands in a text is not put there again."""
    tokenizer = how.tokenizer
    whole = _opening(ids, how, chat=chat)
    labels = list(whole) if how.loss_on == "all" else [IGNORED] * len(whole)
    ends = tokenizer.special_ids | {tokenizer.eos_id}
    last = max((k for k, piece in enumerate(pieces) if piece.supervised), default=-1)
    for k, piece in enumerate(pieces):
        part = ids[k]
        # What others say behind the last turn that is learned goes on with the row.
        closing = k == last and not any(later.text.strip() for later in pieces[k + 1 :])
        if closing and tokenizer.eos_id is not None and part[-1:] != [tokenizer.eos_id]:
            part = part if chat and part and part[-1] in ends else [*part, tokenizer.eos_id]
        whole += part
        labels += part if piece.supervised or how.loss_on == "all" else [IGNORED] * len(part)
    return whole, labels


def _opening(ids: list[list[int]], how: Encoding, *, chat: bool) -> list[int]:
    return [] if chat else how.tokenizer.opening([i for part in ids for i in part][: len(how.tokenizer.prefix_ids)])


def _prompt_tokens(pieces: list[Piece], ids: list[list[int]], how: Encoding, chat: bool) -> int:
    count = len(_opening(ids, how, chat=chat))
    for piece, part in zip(pieces, ids, strict=True):
        if piece.supervised:
            break
        count += len(part)
    return count


def _completions(records: Records, i: int, column: str) -> list[str]:
    """A completion, or several references of one prompt. The first is learned. Raises DataError for a list that holds other than texts."""
    cell = records.rows[i].get(column)
    if not isinstance(cell, list):
        return [_string(records, i, column)]
    if not cell or not all(isinstance(text, str) for text in cell):
        raise DataError(
            f"{records.where(i)}: column '{column}' is the list {str(cell)[:40]}, expected a text or a list of texts",
            hint="Several references of one prompt are a list of texts; the first is learned, metrics take all.",
        )
    return cell


def _other_references(records: Records, i: int, layout: Layout) -> tuple[str, ...]:
    """References beside the first, of rows whose completion is a list of texts."""
    cell = records.rows[i].get(layout.columns["target"]) if layout.has("target") else None
    return tuple(cell[1:]) if isinstance(cell, list) and all(isinstance(text, str) for text in cell) else ()


def _string(records: Records, i: int, column: str) -> str:
    """A text cell.

    Raises: DataError naming line and column when it is missing or no text.
    """
    row = records.rows[i]
    value = row.get(column)
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise DataError(
                f"{records.where(i)}: column '{column}' holds half of a surrogate pair, which is no character",
                hint="An emoji was cut in two when the file was written: write it again from the original text.",
            )
        return value
    if column not in row:
        raise DataError(f"{records.where(i)}: no column '{column}'", hint=f"Columns of this row: {', '.join(row)}")
    if value is None:
        raise DataError(f"{records.where(i)}: column '{column}' is empty (null)")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(
            f"{records.where(i)}: column '{column}' is {type(value).__name__} {str(value)[:40]!r}, expected text"
        )
    raise DataError(
        f"{records.where(i)}: column '{column}' is the number {value}, expected text",
        hint="Write it as a string, in quotes.",
    )
