"""Build tokenised, labelled examples from the rows of files, which must be of one kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from petrun.data.encode.arrays import example_arrays
from petrun.data.encode.words import numbered, tags_of
from petrun.data.examples.array_store import pieces
from petrun.data.examples.example_set import ExampleSet
from petrun.data.examples.mismatched import with_mismatched_answers
from petrun.data.examples.tokenise import RowTokeniser
from petrun.data.formats.records import ABSENT, Array, Records
from petrun.data.formats.source import Source
from petrun.data.formats.table import read_records
from petrun.data.rows.bad_rows import MOST_NAMED, bad_rows_error, find_bad_rows, note_skipped, without_bad_rows
from petrun.data.rows.columns import RowSchema, choose_schema, conversational, infer_task, mapped
from petrun.data.rows.kinds import RowKind
from petrun.data.rows.labels import check_label, read_true_or_false, resolve_labels
from petrun.data.rows.targets import check_target, holds_targets, resolve_targets
from petrun.data.settings import ExampleSettings
from petrun.data.tasks import PREFERENCE, TOKENS
from petrun.data.templates.find_template import find_template, preset
from petrun.data.templates.template import Template, variables
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer
from petrun.data.tokenizers.unknown import count_unknown
from petrun.errors import ConfigError, DataError, did_you_mean


def build_examples(
    sources: list[Source],
    tokenizer: Tokenizer | None,
    settings: ExampleSettings,
    key: str,
    progress: Progress | None,
    folder: Path | None = None,
) -> ExampleSet:
    """Build the examples of all rows of all files, in order. `folder`: where large sets are kept while they grow; None: in memory.

    Raises: DataError; ConfigError where settings contradict the data; SetupError for parquet without its package.
    """
    tables = [_read(source, settings) for source in sources]
    _check_ignored(tables, settings.ignore)
    names = [
        mapped([name for name in table.columns if name not in settings.ignore], settings.columns, str(table.path))
        for table in tables
    ]
    task = _task(tables[0], names[0], settings)
    notes = _notes(sources, tables)
    if any(table.arrays and "input_ids" not in name for table, name in zip(tables, names, strict=True)):
        return replace(_array_examples(tables, names, task, settings, key), notes=notes)
    schemas = [
        conversational(_schema(table, name, task, settings), table.rows)
        for table, name in zip(tables, names, strict=True)
    ]
    kind = _one_kind(tables, schemas)
    template = _template(settings, tokenizer, kind)
    _require_tokenizer(tables[0], kind, tokenizer)
    needs, needs_tags = _needs_labels(task, settings), task == TOKENS and settings.need_target
    regression = needs and _holds_targets(tables, schemas, settings)

    tokenise = RowTokeniser(task=task, tokenizer=tokenizer, template=template, settings=settings, folder=folder)

    def tokenised(part: list[Records], of: list[RowSchema], tell: Progress | None) -> ExampleSet:
        found = tokenise(part, of, tell)
        for table, schema in zip(part, of, strict=True) if needs or needs_tags else ():
            tags_of(table, schema) if needs_tags else _label_cells(table, schema, regression)
        return found

    examples, used = _without_bad_rows(tables, schemas, settings.on_bad_row, tokenised, progress)
    examples = replace(
        examples,
        unused_columns=_unused_columns(tables, schemas, template, settings.ignore, task),
        files=tuple(str(table.path) for table in tables),
        columns=tables[0].columns,
        formats=tuple(table.format for table in tables),
        template=template,
        digest=key,
        notes=(*notes, *examples.notes),
    )
    if not len(examples):
        raise DataError(f"{tables[0].path}: no row holds any text")
    _check_vocabulary(examples, tokenizer, settings.vocab_size)
    unknown, unknown_texts = count_unknown(pieces(examples.flat["input_ids"]), used, schemas, tokenizer)
    examples = replace(examples, stats=replace(examples.stats, unknown=unknown), unknown_texts=unknown_texts)
    return _labelled(examples, used, schemas, settings, regression)


def _array_examples(
    tables: list[Records], names: list[dict[str, str]], task: str, settings: ExampleSettings, key: str
) -> ExampleSet:
    return example_arrays(
        tables,
        names,
        task,
        labels=settings.labels,
        num_labels=settings.num_labels,
        need_target=settings.need_target,
        regression=settings.regression,
        digest=key,
    )


def _require_tokenizer(table: Records, kind: RowKind, tokenizer: Tokenizer | None) -> None:
    if tokenizer is None and not kind.token_ids:
        raise DataError(
            f"{table.path}: the rows are text, but the base has no tokenizer",
            hint="Put tokenizer.json beside its config.json, or give rows with input_ids.",
        )


def _without_bad_rows(
    tables: list[Records],
    schemas: list[RowSchema],
    on_bad_row: str,
    tokenised: Callable[[list[Records], list[RowSchema], Progress | None], ExampleSet],
    progress: Progress | None,
) -> tuple[ExampleSet, list[Records]]:
    """Return (examples, the rows that they are made of). Rows are searched for bad ones only where there is one."""
    try:
        return tokenised(tables, schemas, progress), tables
    except DataError as error:
        stop = on_bad_row == "stop"
        bad = find_bad_rows(
            tables, lambda file, part: tokenised([part], [schemas[file]], None), MOST_NAMED if stop else None
        )
        if not bad:
            raise
        if stop:
            raise bad_rows_error(bad, error) from error
    used = without_bad_rows(tables, bad)
    return note_skipped(tokenised(used, schemas, progress), tables, bad), used


def _template(settings: ExampleSettings, tokenizer: Tokenizer | None, kind: RowKind) -> Template | None:
    found = find_template(
        settings.template,
        chat_template=tokenizer.chat_template if tokenizer else None,
        row_kind=kind.name,
        chat_template_file=tokenizer.files.chat_template_file if tokenizer else "",
    )
    if found is not None and found.is_chat and settings.decoder_start is not None:
        raise ConfigError(
            f"the template {found.name} marks the turns of a conversation, and an encoder-decoder reads a source and writes a target",
            hint="Give rows with prompt and completion, or --template plain.",
        )
    if found is None:
        if settings.chat_template_kwargs:
            raise ConfigError(f"data.chat_template_kwargs: rows of the kind '{kind.name}' take no template")
        return None
    return preset(found, settings.chat_template_kwargs)


def _read(source: Source, settings: ExampleSettings) -> Records:
    return read_records(
        source,
        format=settings.format,
        separator=settings.separator,
        columns=settings.columns,
        encoding=settings.encoding,
        max_rows=settings.max_rows,
    )


def _notes(sources: list[Source], tables: list[Records]) -> tuple[str, ...]:
    return tuple(
        note for source, table in zip(sources, tables, strict=True) for note in (source.note, *table.notes) if note
    )


def _check_ignored(tables: list[Records], ignored: tuple[str, ...]) -> None:
    found = {name for table in tables for name in table.columns}
    for name in ignored:
        if name not in found:
            raise ConfigError(f"data.ignore: {tables[0].path} has no column '{name}'", hint=did_you_mean(name, found))


def _unused_columns(
    tables: list[Records], schemas: list[RowSchema], template: Template | None, ignored: tuple[str, ...], task: str
) -> tuple[str, ...]:
    """Return the columns that no rule and no template reads."""
    named = frozenset() if template is None or template.is_chat else variables(template.text)
    found: dict[str, None] = {}
    for table, schema in zip(tables, schemas, strict=True):
        columns = {name: column for name, column in schema.columns.items() if name != "rejected" or task == PREFERENCE}
        read = {*columns.values(), *named, *ignored}
        found |= dict.fromkeys(name for name in table.columns if name not in read)
    return tuple(found)


def _task(table: Records, names: dict[str, str], settings: ExampleSettings) -> str:
    sample = table.rows[0] if table.rows else {name: array[0] for name, array in table.arrays.items()}
    task = settings.task
    if task is None:
        family = settings.family_tasks
        task = infer_task(
            names,
            family,
            sample=sample,
            need_target=settings.need_target,
            arrays=bool(table.arrays),
            where=str(table.path),
        )
    elif task not in settings.family_tasks:
        raise ConfigError(f"--task {task}: this model family cannot do it; it does {', '.join(settings.family_tasks)}")
    return task


def _schema(table: Records, names: dict[str, str], task: str, settings: ExampleSettings) -> RowSchema:
    return choose_schema(
        names,
        "instruct" if settings.for_generation else task,
        str(table.path),
        need_target=settings.need_target and not settings.for_generation,
        text_prompts=settings.for_generation,
    )


def _one_kind(tables: list[Records], schemas: list[RowSchema]) -> RowKind:
    kinds = {schema.kind.name for schema in schemas}
    if len(kinds) > 1:
        found = ", ".join(
            f"{table.path.name} {schema.kind.name}" for table, schema in zip(tables, schemas, strict=True)
        )
        raise DataError(f"the files hold rows of different kinds: {found}", hint="Map or rename their columns.")
    return schemas[0].kind


def _check_vocabulary(examples: ExampleSet, tokenizer: Tokenizer | None, vocab_size: int | None) -> None:
    if tokenizer is None or vocab_size is None:
        return
    worst = max(int(ids.max()) for ids in pieces(examples.flat["input_ids"]))
    if worst >= vocab_size:
        raise DataError(
            f"{tokenizer.files.folder}: the tokenizer gives the id {worst} ({tokenizer.token(worst)!r}), but the model's vocabulary has "
            f"{vocab_size} entries",
            hint="The tokenizer's files do not belong to this base.",
        )


def _needs_labels(task: str, settings: ExampleSettings) -> bool:
    return task == "classify" and settings.need_target and not settings.for_generation


def _holds_targets(tables: list[Records], schemas: list[RowSchema], settings: ExampleSettings) -> bool:
    """Return whether the labels are numbers to predict. Raises DataError."""
    values = (value for table, schema in zip(tables, schemas, strict=True) for value in _cells(table, schema))
    return holds_targets(values, asked=settings.regression, labels=settings.labels, num_labels=settings.num_labels)


def _cells(table: Records, schema: RowSchema) -> list[object]:
    """Return the label column of the file; None for a row that has none."""
    return [None if cell is ABSENT else cell for cell in table.column(schema.columns["label"])]


def _label_cells(table: Records, schema: RowSchema, regression: bool) -> list[object]:
    """Return the label column, classes or, for `regression`, numbers to predict. Raises DataError naming the first row that has none."""
    column = schema.columns["label"]
    values = table.column(column)
    for i, value in enumerate(values):
        if value is ABSENT:
            names = ", ".join(table.rows[i])
            raise DataError(f"{table.where(i)}: no column '{column}'", hint=f"Columns of this row: {names}")
    for i, value in enumerate(values):
        (check_target if regression else check_label)(value, table.where, i)
    return values


def _labelled(
    examples: ExampleSet, tables: list[Records], schemas: list[RowSchema], settings: ExampleSettings, regression: bool
) -> ExampleSet:
    if examples.task == TOKENS:
        return _tagged(examples, tables, schemas, settings)
    if examples.task == PREFERENCE and schemas[0].has("label") and not settings.for_generation:
        return with_mismatched_answers(examples, _desirable(tables, schemas), settings.seq_len)
    if examples.task != "classify":
        return examples
    if not _needs_labels("classify", settings):
        return replace(examples, labels=settings.labels, num_labels=settings.num_labels or len(settings.labels) or None)
    values = [
        value
        for table, schema in zip(tables, schemas, strict=True)
        for value in _label_cells(table, schema, regression)
    ]
    if regression:
        targets = resolve_targets(values, examples.where)
        return replace(examples, per_row={**examples.per_row, "label": targets}, labels=(), num_labels=1)
    indices, names, count = resolve_labels(
        values,
        examples.where,
        names=settings.labels,
        num_labels=settings.num_labels,
        indices_only=schemas[0].kind.token_ids,
    )
    return replace(examples, per_row={**examples.per_row, "label": indices}, labels=names, num_labels=count)


def _desirable(tables: list[Records], schemas: list[RowSchema]) -> Array:
    """Return whether the answer of each row is desirable, (n,) bool."""
    columns = ((table, schema.columns["label"]) for table, schema in zip(tables, schemas, strict=True))
    return np.array(
        [
            read_true_or_false(value, column, table.where(i))
            for table, column in columns
            for i, value in enumerate(table.column(column))
        ],
        bool,
    )


def _tagged(
    examples: ExampleSet, tables: list[Records], schemas: list[RowSchema], settings: ExampleSettings
) -> ExampleSet:
    """Number the tags. Without targets the labels stay the numbers of words, which say where a tag is to be predicted."""
    if not settings.need_target:
        return replace(examples, labels=settings.labels, num_labels=settings.num_labels or len(settings.labels) or None)
    rows = [tags for table, schema in zip(tables, schemas, strict=True) for tags in tags_of(table, schema)]
    counts = np.array([len(tags) for tags in rows], np.int64)
    of_row = np.repeat(np.arange(len(rows)), counts)
    indices, names, count = resolve_labels(
        [tag for tags in rows for tag in tags],
        lambda word: examples.where(int(of_row[word])),
        names=settings.labels,
        num_labels=settings.num_labels,
    )
    labels = numbered(examples.flat["labels"], examples.offsets, indices, counts)
    return replace(examples, flat={**examples.flat, "labels": labels}, labels=names, num_labels=count)
