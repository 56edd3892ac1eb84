"""Derive from the columns of a file the kind of its rows, the column of every part, and the task.

    kind         columns                                               tasks
    text         text | sentence                                       lm; with label: classify
    pair         text_pair beside text, or sentence1/sentence2,        classify
                 premise/hypothesis, question1/question2, ...
    completion   prompt, completion | response; query, response        instruct
    instruction  instruction, output | response; optional input        instruct
    reference    input, reference | output; question, answer           instruct
    chat         messages | conversations; or a prompt and completion  instruct
                 that are lists of messages
    preference   prompt | question | messages, chosen, rejected; or     preference; instruct: the chosen
                 chosen and rejected as conversations that begin alike  answers alone
    unpaired     prompt | messages, completion, label true or false     preference
    tokens       input_ids; optional attention_mask, token_type_ids,   label(s) a number: classify; label(s) aligned
                 label | labels                                        with input_ids, or none: lm, instruct
    words        tokens | words, a list; tags | ner_tags | labels,      tokens
                 as long, of names or numbers
    arrays       named arrays (npz), label | labels                    classify

The table of kinds is petrun/data/rows/kinds.py. Any canonical name can be mapped to a column of the file: data.columns.text=content.
Other columns are read by templates alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.data.chat.messages import EXTRA_CELLS, is_conversation
from petrun.data.rows.kinds import CANONICAL, KNOWN_COLUMNS, LABEL, ROW_KINDS, RowKind, row_kind
from petrun.data.rows.labels import is_true_or_false
from petrun.data.tasks import CLASS_TASKS, TOKENS
from petrun.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class RowSchema:
    """The kind of a file's rows, and canonical name -> its column."""

    kind: RowKind
    columns: Mapping[str, str]

    def has(self, name: str) -> bool:
        return name in self.columns


def mapped(columns: Iterable[str], mapping: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the column name in the rules below -> the column of the file.

    Raises: ConfigError for a canonical name that does not exist; DataError for a column that the file does not have.
    """
    found = list(columns)
    names = {name: name for name in found}
    for name in found:
        if name.lower() in KNOWN_COLUMNS and name.lower() not in names:
            names[name.lower()] = names.pop(name)
    for canonical, column in mapping.items():
        if canonical not in KNOWN_COLUMNS | set(EXTRA_CELLS):
            known = (*CANONICAL, *EXTRA_CELLS)
            raise ConfigError(f"data.columns: unknown name '{canonical}'", hint=did_you_mean(canonical, known))
        if column not in found:
            raise DataError(
                f"{where}: no column '{column}' (data.columns.{canonical})",
                hint=f"Columns found: {', '.join(found)}. {did_you_mean(column, found)}",
            )
    for canonical, column in mapping.items():
        names = {name: source for name, source in names.items() if source != column}
        names[canonical] = column
    return names


def row_schemas(names: Mapping[str, str], *, need_target: bool = True) -> list[RowSchema]:
    """Return every schema that these columns match, the most specific kind first.

    Inputs: `names` from `mapped`; `need_target` False (predict) accepts rows without the label or the completion.
    """
    label = next(({"label": name} for name in LABEL if name in names), {})
    found: list[RowSchema] = []
    for kind in ROW_KINDS:
        columns = next((each for each in kind.columns if all(name in names for name in each.values())), None)
        if columns is None and not need_target and not (kind.lone_unless and kind.lone_unless in names):
            columns = next(({"source": name} for name in kind.lone_prompts if name in names), None)
        if columns is None:
            continue
        columns = {**(label if kind.labelled and "label" not in columns else {}), **columns}
        optional = {name: names[name] for name in kind.optional if name in names}
        found.append(RowSchema(kind, {canonical: names[name] for canonical, name in columns.items()} | optional))
        if kind.token_ids:
            break
    return found


def infer_task(
    columns: Mapping[str, str] | Iterable[str],
    family_tasks: Sequence[str],
    *,
    sample: Mapping[str, object] | None = None,
    need_target: bool = True,
    arrays: bool = False,
    where: str = "",
) -> str:
    """Infer the task of rows with these columns, among those that the family can do.

    Inputs: `sample`, the first row: for input_ids it tells an int label (classify) from aligned labels; `arrays` True
    for named arrays, which are classified; `where`, the file, for messages.
    Raises: DataError when the columns match no task of the family.
    """
    names = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    possible = tasks_of(names, sample or {}, need_target=need_target)
    if arrays and "input_ids" not in names:
        possible = ["classify"]
    for task in possible:
        if task in family_tasks:
            return task
    listed = ", ".join(names.values())
    file = f"{where}: " if where else ""
    if not possible:
        raise DataError(f"{file}no task fits the columns {listed}", hint=_needed_columns(tuple(family_tasks)))
    raise DataError(
        f"{file}the columns {listed} stand for the task {' or '.join(possible)}, which this model family cannot do",
        hint=f"It does {', '.join(family_tasks)}. Choose another base, or name the task: --task.",
    )


def tasks_of(names: Mapping[str, str], sample: Mapping[str, object], *, need_target: bool = True) -> list[str]:
    """Return the tasks that the columns match, the likeliest first."""
    possible: list[str] = []
    for schema in row_schemas(names, need_target=need_target):
        possible += _schema_tasks(schema, sample, need_target)
    return list(dict.fromkeys(possible))


def _schema_tasks(schema: RowSchema, sample: Mapping[str, object], need_target: bool) -> list[str]:
    kind = schema.kind
    if schema.has("label"):
        if kind.true_or_false and sample and not is_true_or_false(sample.get(schema.columns["label"])):
            return []
        if not kind.aligned_labels:
            return [kind.labelled_task]
        label = sample.get(schema.columns["label"])
        if label is not None:
            return list(kind.unlabelled_tasks) if np.ndim(np.asarray(label)) else ["classify"]
    return [*kind.unlabelled_tasks, *([kind.labelled_task] if kind.labelled and not need_target else [])]


def choose_schema(
    names: Mapping[str, str], task: str, where: str, *, need_target: bool = True, text_prompts: bool = False
) -> RowSchema:
    """Return the schema for the task.

    Inputs: `text_prompts` True (generation) reads a text column as prompts.
    Raises: DataError listing the columns found and those the task needs.
    """
    possible = row_schemas(names, need_target=need_target)
    for schema in possible:
        if task not in schema.kind.tasks and not (text_prompts and schema.kind.plain_text):
            continue
        if task in CLASS_TASKS and need_target and not schema.has("label"):
            column = "tags" if task == TOKENS else "label"
            raise DataError(
                f"{where}: no column '{column}', which the task {task} needs",
                hint=f"Columns found: {', '.join(names.values())}. Another name is mapped by --set data.columns.label=NAME.",
            )
        return schema
    others = dict.fromkeys(
        other
        for schema in possible
        for other in ([schema.kind.labelled_task] if schema.has("label") else schema.kind.unlabelled_tasks)
    )
    raise DataError(
        f"{where}: the columns {', '.join(names.values())} do not fit the task {task}",
        hint=_needed_columns((task,)) + (f" These columns stand for --task {' or '.join(others)}." if others else ""),
    )


def conversational(schema: RowSchema, rows: Sequence[Mapping[str, object]]) -> RowSchema:
    """Return the schema of a conversation in two columns, where prompts or completions are lists of messages; else the schema itself."""
    parts = [schema.columns[name] for name in ("source", "target") if schema.has(name)]
    if not schema.kind.as_messages or not rows or not any(is_conversation(rows[0].get(column)) for column in parts):
        return schema
    names = {"source": "prompt", "target": "completion"}
    return RowSchema(
        row_kind(schema.kind.as_messages), {names.get(name, name): column for name, column in schema.columns.items()}
    )


def _needed_columns(tasks: tuple[str, ...]) -> str:
    needs = {
        "classify": "classify needs text (or a pair) and label",
        "lm": "lm needs text",
        TOKENS: "tokens needs tokens and tags",
        "preference": "preference needs prompt, chosen and rejected, or prompt, completion and label",
        "instruct": "instruct needs prompt and completion, instruction and output, input and reference, or messages",
    }
    return (
        "; ".join(needs[task] for task in tasks if task in needs) + ". Map other names: --set data.columns.text=NAME."
    )
