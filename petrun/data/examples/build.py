"""Build tokenised, labelled examples from the rows of files, which must be of one kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from petrun.data.chat.end_of_turn import find_end_of_turn
from petrun.data.encode.arrays import example_arrays
from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.instruct import encode_instruct
from petrun.data.encode.segments import EncodeSettings
from petrun.data.encode.text import encode_lm, encode_stream, encode_text
from petrun.data.encode.tokens import encode_tokens
from petrun.data.examples.collector import ExampleCollector
from petrun.data.examples.example_set import STREAM, ExampleSet
from petrun.data.formats.records import Records
from petrun.data.formats.source import Source
from petrun.data.formats.table import read_records
from petrun.data.rows.bad_rows import MOST_NAMED, bad_rows_error, find_bad_rows, note_skipped, without_bad_rows
from petrun.data.rows.columns import RowSchema, choose_schema, conversational, infer_task, mapped
from petrun.data.rows.kinds import RowKind
from petrun.data.rows.labels import check_label, resolve_labels
from petrun.data.rows.targets import check_target, holds_targets, resolve_targets
from petrun.data.settings import ExampleSettings
from petrun.data.templates.find_template import find_template, preset
from petrun.data.templates.template import Template, variables
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer
from petrun.data.tokenizers.unknown import count_unknown
from petrun.errors import ConfigError, DataError, did_you_mean


def build_examples(
    sources: list[Source], tokenizer: Tokenizer | None, settings: ExampleSettings, key: str, progress: Progress | None
) -> ExampleSet:
    """Build the examples of all rows of all files, in order.

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
        examples = example_arrays(
            tables,
            names,
            task,
            labels=settings.labels,
            num_labels=settings.num_labels,
            need_target=settings.need_target,
            regression=settings.regression,
            digest=key,
        )
        return replace(examples, notes=notes)
    schemas = [
        conversational(_schema(table, name, task, settings), table.rows)
        for table, name in zip(tables, names, strict=True)
    ]
    kind = _one_kind(tables, schemas)
    template = _template(settings, tokenizer, kind)
    _require_tokenizer(tables[0], kind, tokenizer)
    needs = _needs_labels(task, settings)
    regression = needs and _holds_targets(tables, schemas, settings)

    def tokenised(part: list[Records], of: list[RowSchema], tell: Progress | None) -> ExampleSet:
        found = _tokenised(part, of, task, tokenizer, template, settings, tell)
        for table, schema in zip(part, of, strict=True) if needs else ():
            _label_cells(table, schema, regression)
        return found

    examples, used = _without_bad_rows(tables, schemas, settings.on_bad_row, tokenised, progress)
    examples = replace(
        examples,
        unused_columns=_unused_columns(tables, schemas, template, settings.ignore),
        files=tuple(str(table.path) for table in tables),
        columns=tables[0].columns,
        formats=tuple(table.format for table in tables),
        template=template,
        digest=key,
        notes=(*notes, *_several_references(used, schemas), *examples.notes),
    )
    if not len(examples):
        raise DataError(f"{tables[0].path}: no row holds any text")
    _check_vocabulary(examples, tokenizer, settings.vocab_size)
    unknown, unknown_texts = count_unknown(examples.flat["input_ids"], used, schemas, tokenizer)
    examples = replace(examples, stats=replace(examples.stats, unknown=unknown), unknown_texts=unknown_texts)
    return _labelled(examples, used, schemas, settings, regression) if task == "classify" else examples


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


def _several_references(tables: list[Records], schemas: list[RowSchema]) -> tuple[str, ...]:
    """Return a note on rows with several references."""
    count = 0
    for table, schema in zip(tables, schemas, strict=True):
        column = schema.columns.get("target") if not schema.kind.conversation else None
        cells = (row.get(column) for row in table.rows) if column is not None else ()
        count += sum(isinstance(cell, list) and len(cell) > 1 for cell in cells)
    return (f"{count:,} rows have several references: the first is learned, metrics take all",) if count else ()


def _check_ignored(tables: list[Records], ignored: tuple[str, ...]) -> None:
    found = {name for table in tables for name in table.columns}
    for name in ignored:
        if name not in found:
            raise ConfigError(f"data.ignore: {tables[0].path} has no column '{name}'", hint=did_you_mean(name, found))


def _unused_columns(
    tables: list[Records], schemas: list[RowSchema], template: Template | None, ignored: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the columns that no rule and no template reads."""
    named = frozenset() if template is None or template.is_chat else variables(template.text)
    found: dict[str, None] = {}
    for table, schema in zip(tables, schemas, strict=True):
        read = {*schema.columns.values(), *named, *ignored}
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


def _tokenised(
    tables: list[Records],
    schemas: list[RowSchema],
    task: str,
    tokenizer: Tokenizer | None,
    template: Template | None,
    settings: ExampleSettings,
    progress: Progress | None,
) -> ExampleSet:
    out = _collector(task, tokenizer, template, settings)
    generation, needed = settings.for_generation, settings.need_target
    how = None
    if tokenizer is not None:
        how = EncodeSettings(
            tokenizer=tokenizer,
            limit=settings.seq_len,
            template=template,
            loss_on=settings.loss_on,
            generation=generation,
            need_target=needed,
        )
    kind = schemas[0].kind.name
    first = 0
    for file, (table, schema) in enumerate(zip(tables, schemas, strict=True)):
        before = len(out.rows)
        rows = FileRows(records=table, schema=schema, file=file, first_row=first)
        if schema.kind.token_ids:
            encode_tokens(
                rows, out, classify=task == "classify", need_target=needed, generation=generation, vocab_size=settings.vocab_size,
                tokenizer=tokenizer,
            )  # fmt: skip
            first += len(table)
            continue
        assert how is not None, "only rows of token ids go without a tokenizer"
        if task == "lm" and table.stream is not None and needed and not generation:
            encode_stream(rows, how, out, settings.max_rows)
            kind = STREAM
            first += len(out.rows) - before
            continue
        encode = encode_instruct if generation else _ENCODERS[task]
        encode(rows, how, out, progress)
        first += len(table)
    out.counts["read"] = first
    return out.finish(task=task, kind=kind)


_ENCODERS: Mapping[str, Callable[[FileRows, EncodeSettings, ExampleCollector, Progress | None], None]] = {
    "classify": encode_text,
    "lm": encode_lm,
    "instruct": encode_instruct,
}


def _collector(
    task: str, tokenizer: Tokenizer | None, template: Template | None, settings: ExampleSettings
) -> ExampleCollector:
    ends = find_end_of_turn(template, tokenizer).ids | frozenset(settings.eos_ids)
    if tokenizer and tokenizer.eos_id is not None:
        ends |= {tokenizer.eos_id}
    bos = (tokenizer.bos_id,) if tokenizer and tokenizer.bos_id is not None else ()
    return ExampleCollector(
        limit=settings.seq_len,
        ends=ends,
        decoder=task != "classify" and not settings.for_generation,
        openings=(tuple(tokenizer.prefix_ids), bos) if tokenizer else (),
    )


def _check_vocabulary(examples: ExampleSet, tokenizer: Tokenizer | None, vocab_size: int | None) -> None:
    ids = examples.flat["input_ids"]
    if tokenizer is not None and vocab_size is not None and int(ids.max()) >= vocab_size:
        worst = int(ids.max())
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
    column = schema.columns["label"]
    return list(table.arrays[column]) if table.arrays else [row.get(column) for row in table.rows]


def _label_cells(table: Records, schema: RowSchema, regression: bool) -> list[object]:
    """Return the label column, classes or, for `regression`, numbers to predict. Raises DataError naming the first row that has none."""
    column = schema.columns["label"]
    for i, row in enumerate(table.rows):
        if column not in row:
            raise DataError(f"{table.where(i)}: no column '{column}'", hint=f"Columns of this row: {', '.join(row)}")
    values = _cells(table, schema)
    for i, value in enumerate(values):
        (check_target if regression else check_label)(value, table.where, i)
    return values


def _labelled(
    examples: ExampleSet, tables: list[Records], schemas: list[RowSchema], settings: ExampleSettings, regression: bool
) -> ExampleSet:
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
