"""Read from a row of any kind what filters, scores and comparisons need: its question and its answer as texts, or the two sides of a
translation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from petrun.curation.reading import DataRow
from petrun.data.chat.messages import Message, is_conversation, read_conversation, read_messages
from petrun.data.encode.preference import prompt_cells, with_prompt_column
from petrun.data.rows.columns import RowSchema, conversational, mapped, row_schemas
from petrun.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class RowParts:
    """The texts of a row."""

    question: str
    """What the model is asked: of a conversation, all messages before its last answer. "" for plain text."""
    answer: str
    """What is learned: of a conversation, its last answer; of plain text, the text; of preference, the chosen one. "" for none."""
    rejected: str = ""
    """The other answer of a row of preference; "" for any other row."""

    @property
    def text(self) -> str:
        """All of them, for comparisons of complete rows."""
        return "\n".join(text for text in (self.question, self.answer, self.rejected) if text)


NO_PARTS = "no question or no answer"
"""The reason for a row that has no score, where a score needs both."""
PARTS = ("row", "question", "answer")


def part_of(parts: RowParts, name: str) -> str:
    """Return one of PARTS of a row."""
    return {"row": parts.text, "question": parts.question, "answer": parts.answer}[name]


@dataclass(kw_only=True)
class PartReader:
    """Reads the parts of rows. Rows with the same columns are interpreted once."""

    source: str | None = None
    """Column of the question, or of a translation's source; `translation.en` is the key `en` of the object `translation`."""
    target: str | None = None
    _schemas: dict[tuple[tuple[str, bool], ...], RowSchema] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            raise ConfigError("--source and --target belong together: the columns of the two sides")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the user names."""
        return tuple(name for name in (self.source, self.target) if name is not None)

    def __call__(self, row: DataRow) -> RowParts:
        """Return the texts of a row. Raises DataError naming the row that has no such columns, or no text in them."""
        if self.source is not None and self.target is not None:
            return RowParts(question=_named(row, self.source), answer=_named(row, self.target))
        row, schema = with_prompt(row, self.schema(row))
        kind = schema.kind
        if kind.conversation:
            parts = _of_messages(read_conversation(named_cells(row, schema), row.where).messages)
            return replace(parts, rejected=_rejected_messages(row, schema)) if schema.has("rejected") else parts
        if kind.name in ("text", "pair"):
            label = row.cells.get(schema.columns["label"]) if schema.has("label") else None
            texts = [_text(row, schema.columns[name]) for name in ("text", "text_pair") if schema.has(name)]
            # A text with a class is a question; without one it is learned as it stands.
            if label is None and kind.plain_text:
                return RowParts(question="", answer=texts[0])
            return RowParts(question="\n".join(texts), answer="" if label is None else str(label))
        beside = (
            [_text(row, schema.columns["input"])]
            if schema.has("input") and row.cells.get(schema.columns["input"])
            else []
        )
        asked = [_text(row, schema.columns["source"]), *beside]
        return RowParts(
            question="\n".join(text for text in asked if text),
            answer=answer_text(row, schema),
            rejected=_text(row, schema.columns["rejected"]) if schema.has("rejected") else "",
        )

    def schema(self, row: DataRow) -> RowSchema:
        """Return the kind of the row and its columns. Raises DataError for columns that stand for nothing, or that the row lacks."""
        key = tuple((name, value != "") for name, value in row.cells.items() if value is not None)
        found = self._schemas.get(key)
        if found is None:
            # A format with the same columns in every row, such as CSV, fills up with empty cells: they say nothing about the row's kind.
            filled, every = [name for name, holds in key if holds], [name for name, _ in key]
            possible = (
                self._named(every, row.where) if self.columns else _schemas_of(filled, row.where)
            ) or _schemas_of(every, row.where)
            if not possible or possible[0].kind.token_ids:
                raise DataError(
                    f"{row.where}: no text that this command knows in the columns {', '.join(row.cells)}",
                    hint="--source COLUMN --target COLUMN names the columns of the question and the answer.",
                )
            found = self._schemas[key] = possible[0]
        # What a column holds, a text or messages, may differ from row to row.
        return conversational(found, [row.cells])

    def _named(self, columns: list[str], where: str) -> list[RowSchema]:
        """Return the schema of a question and an answer in the columns that the user names."""
        names = mapped(columns, dict(zip(("prompt", "completion"), self.columns, strict=True)), where)
        return [
            schema
            for schema in row_schemas(names)
            if self.columns == tuple(map(schema.columns.get, ("source", "target")))
        ]


def _schemas_of(columns: list[str], where: str) -> list[RowSchema]:
    return row_schemas(mapped(columns, {}, where), need_target=False)


def with_prompt(row: DataRow, schema: RowSchema) -> tuple[DataRow, RowSchema]:
    """Return a row of preference with its prompt in a column of its own, where its answers hold it; any other row as it is.

    Raises: DataError for a row of preference without a prompt.
    """
    if not schema.has("rejected"):
        return row, schema
    schema = with_prompt_column(schema)
    split = prompt_cells(row.cells, schema, row.where)
    return row if split is None else replace(row, cells={**row.cells, **split}), schema


def prompt_column(schema: RowSchema) -> str:
    """Return the column that holds what the user asks, of a row with a prompt."""
    return next(schema.columns[name] for name in ("messages", "prompt", "source") if schema.has(name))


def named_cells(row: DataRow, schema: RowSchema) -> dict[str, object]:
    """Return the cells of a row under their canonical names."""
    return {name: row.cells.get(column) for name, column in schema.columns.items()}


def answer_text(row: DataRow, schema: RowSchema) -> str:
    """Return the completion of a row that is no conversation, the first where there are several; "" without one. Raises DataError."""
    if not schema.has("target"):
        return ""
    cell = row.cells.get(schema.columns["target"])
    if isinstance(cell, list) and cell and all(isinstance(text, str) for text in cell):
        return str(cell[0])
    return _text(row, schema.columns["target"])


def content_of(message: Message) -> str:
    """Return the text of a message; "" where it holds a call of a tool alone."""
    return str(message.get("content") or "")


def _of_messages(messages: list[Message]) -> RowParts:
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    answer = content_of(messages[last]) if last < len(messages) else ""
    return RowParts(question="\n".join(content_of(message) for message in messages[:last]), answer=answer)


def _rejected_messages(row: DataRow, schema: RowSchema) -> str:
    column = schema.columns["rejected"]
    cell = row.cells.get(column)
    if not is_conversation(cell):
        return _text(row, column)
    return "\n".join(content_of(message) for message in read_messages(cell, row.where, column))


def _text(row: DataRow, column: str) -> str:
    value = row.cells.get(column)
    if isinstance(value, str):
        return value
    found = "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
    raise DataError(f"{row.where}: column '{column}' holds {found}, expected text")


def _named(row: DataRow, column: str) -> str:
    """Return the text in a column, or under a key of an object in one. Raises DataError."""
    value: object = row.cells
    for part in [column] if column in row.cells else column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else list(row.cells)
            raise DataError(f"{row.where}: no column '{column}'", hint=did_you_mean(part, map(str, known)))
        value = value[part]
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column '{column}' holds {type(value).__name__}, expected text")
    return value
