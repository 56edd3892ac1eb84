"""Encode rows with a prompt, and conversations, to token ids and labels.

Prompt and completion are tokenised separately and joined, so that the prompt of generation is token for token the beginning
of the training row: prefix + prompt, then completion + EOS. The joined ids are those of the joined text, except where a token would
span the boundary. A BOS or EOS that the text holds already is not added again. The completion alone is scored, or with
loss_on="all" the complete row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

from petrun.data.chat.assistant_mask import ChatRenderer
from petrun.data.chat.messages import (
    WEIGHT,
    Conversation,
    as_messages,
    read_conversation,
    read_history,
    read_values,
    usual_order,
)
from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.segments import EncodeSettings, TextSegment, join_segments, prompt_tokens, tokenise_segments
from petrun.data.examples.collector import ExampleCollector, TokenizedRow
from petrun.data.examples.example_set import IGNORED
from petrun.data.rows.kinds import ROW_KINDS
from petrun.data.templates.template import Template, render_prompt, variables
from petrun.errors import DataError
from petrun.typing import JsonObject

_PROMPT_COLUMNS = [kind.template_column for kind in ROW_KINDS if kind.template_column]


def encode_instruct(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of instruct: every kind that has a prompt."""
    for row in tokenized_rows(rows, settings, out):
        out.add(row, from_left=settings.generation)


def tokenized_rows(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> Iterator[TokenizedRow]:
    """Yield the rows as tokens, before they are truncated. `out` gets what is counted and noted of them."""
    renderer = (
        ChatRenderer(settings.template, settings.tokenizer.specials, settings.tokenizer.special_texts)
        if settings.template is not None and settings.template.is_chat
        else None
    )
    segments: list[list[TextSegment]] = []
    references: list[str | None] = []
    for i in range(len(rows)):
        row, completion = segments_of_row(rows, i, settings, renderer)
        segments.append(row)
        references.append(completion)
        out.several_references += rows.has_several_references(i)
    if renderer is not None:
        out.unused_keys |= renderer.unused_keys
        out.notes += [renderer.note] if renderer.note else []
    ids = tokenise_segments(segments, settings.tokenizer)
    for i, row_segments in enumerate(segments):
        reference = references[i]
        out.counts["empty"] += reference is not None and not reference.strip()
        whole, labels = join_segments(row_segments, ids[i], settings, chat=renderer is not None)
        if not whole:
            raise DataError(
                f"{rows.where(i)}: the prompt is empty",
                hint="This tokenizer opens no sequence with a BOS token, so there is nothing to continue.",
            )
        if settings.generation:
            yield TokenizedRow(
                ids=whole,
                origin=rows.origin(i),
                prompt_length=len(whole),
                reference=reference,
                other_references=rows.other_references(i),
            )
        else:
            learned = [segment.supervised for segment in row_segments]
            if settings.loss_on == "completion" and learned == sorted(learned):
                # What is learned comes last: the usual row, for which this is several times as fast as the next line.
                start = labels.count(IGNORED)
            elif settings.loss_on == "completion":
                start = sum(1 for _ in takewhile(IGNORED.__eq__, labels))
            else:
                start = prompt_tokens(row_segments, ids[i], settings, renderer is not None)
            yield TokenizedRow(
                ids=whole, origin=rows.origin(i), labels=labels, prompt_length=start, reference=reference
            )


def segments_of_row(
    rows: FileRows, i: int, settings: EncodeSettings, renderer: ChatRenderer | None
) -> tuple[list[TextSegment], str | None]:
    """Return (the row's text in segments, its completion)."""
    row, where, schema = rows.records.rows[i], rows.where(i), rows.schema
    if schema.kind.plain_text:
        return [TextSegment(rows.text(i, schema.columns["text"]), False)], None
    cells = {name: row.get(column) for name, column in schema.columns.items()}
    if rows.records.sorted_keys:
        cells = {name: usual_order(cell) for name, cell in cells.items()}
    if schema.kind.conversation:
        assert renderer is not None, "find_template gives messages a chat template"
        found = read_conversation(cells, where)
        if settings.loss_on == "all" and "messages" in cells and any(WEIGHT in message for message in found.messages):
            raise DataError(
                f"{where}: a message has weight 0, and data.loss_on=all learns whole rows",
                hint="Leave one of them out.",
            )
        return _chat_segments(renderer, found, where, settings)
    values = _template_values(rows, i)
    completion = None
    if schema.has("target") and (settings.need_target or row.get(schema.columns["target"]) is not None):
        completion = rows.completions(i)[0]
    if renderer is not None:
        # A chat template may read a second column by its name, as those of merged folders do.
        read, source = variables(renderer.template.text), schema.kind.template_column
        beside = {name: values[name] for name in _PROMPT_COLUMNS if name != source and values[name] and name in read}
        asked = [values[name] for name in ("instruction", "prompt", "input") if values[name] and name not in beside]
        cells["messages"] = as_messages("\n\n".join(asked), completion)
        found = read_conversation(cells, where)
        return _chat_segments(renderer, replace(found, values={**found.values, **beside}), where, settings)
    assert settings.template is not None, "find_template gives every row with a prompt a template"
    prompt = TextSegment(prompt_text(settings.template, values, cells, where), False)
    if settings.generation or completion is None:
        return [prompt], completion
    return [prompt, TextSegment(completion, True)], completion


def _chat_segments(
    renderer: ChatRenderer, row: Conversation, where: str, settings: EncodeSettings
) -> tuple[list[TextSegment], str | None]:
    learned = [message for message in row.messages if message["role"] == "assistant" and message.get(WEIGHT) != 0]
    if settings.generation or (not settings.need_target and not learned):
        return renderer.prompt(row.messages, where, row.values)
    segments = renderer.segments(row.messages, where, row.values)
    return segments, renderer.reference(row.messages, where, row.values)


def _template_values(rows: FileRows, i: int) -> JsonObject:
    """Return the variables of a prompt template: all columns of the file, and the names that are always defined."""
    records, schema = rows.records, rows.schema
    values = {**records.rows[i], "prompt": "", "instruction": "", "input": "", "system": ""}
    values[schema.kind.template_column] = rows.text(i, schema.columns["source"])
    for optional in ("input", "system"):
        if schema.has(optional) and records.rows[i].get(schema.columns[optional]) is not None:
            values[optional] = rows.text(i, schema.columns[optional])
    return values


def prompt_text(template: Template, values: Mapping[str, object], cells: Mapping[str, object], where: str) -> str:
    """Render the prompt of a row.

    Inputs: `values`, the template's variables; `cells`, the row's cells under their canonical names.
    Raises: DataError where the template fails, and for a cell that changes what the row means and that the template does not read.
    """
    own = read_values(cells, where)
    given = {"input": cells.get("input"), "system": cells.get("system"), **own}
    history = read_history(cells.get("history"), where)
    read = variables(template.text)
    for name, value in {**given, "history": history}.items():
        if value not in (None, "", []) and name not in read:
            raise DataError(
                f"{where}: the template {template.name} does not read {name}, which this row holds",
                hint=f"--template FILE with one that does, or leave it out: --set 'data.ignore=[{name}]'.",
            )
    return render_prompt(template, {**values, **own, "history": history}, where)
