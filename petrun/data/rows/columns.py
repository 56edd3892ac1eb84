"""What a row is: which columns make which kind of example, and which task they stand for.

    kind         columns                                               tasks
    text         text | sentence                                       lm; with label: classify
    pair         text_pair beside text, or sentence1/sentence2,        classify
                 premise/hypothesis, question1/question2, ...
    completion   prompt, completion | response; query, response        instruct
    instruction  instruction, output | response; optional input        instruct
    reference    input, reference | output; question, answer           instruct
    chat         messages | conversations; or a prompt and completion  instruct
                 that are lists of messages
    tokens       input_ids; optional attention_mask, token_type_ids,   label(s) a number: classify; label(s) aligned
                 label | labels                                        with input_ids, or none: lm, instruct
    arrays       named arrays (npz), label | labels                    classify

Rows with a prompt or messages may also hold system, history, tools, enable_thinking and chat_template_kwargs
(petrun/data/chat/messages.py).
Any canonical name can be mapped to a column of the file: data.columns.text=content. Other columns are not read (but by templates).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petrun.data.chat.messages import EXTRA_CELLS, is_conversation
from petrun.errors import ConfigError, DataError, did_you_mean

TEXT = ("text", "sentence")
LABEL = ("label", "labels")
PAIRS = (
    ("text", "text_pair"), ("sentence", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text_a", "text_b"), ("text1", "text2"), ("question", "sentence"), ("question", "passage"),
)  # fmt: skip
CHAT = ("messages", "conversations", "conversation")
COMPLETION = (("prompt", "completion"), ("prompt", "response"), ("query", "response"))
INSTRUCTION = (("instruction", "output"), ("instruction", "response"))
REFERENCE = (("input", "reference"), ("input", "output"), ("question", "answer"))
CANONICAL = (
    "text", "text_pair", "label", "prompt", "completion", "instruction", "input", "output", "reference", "messages", "input_ids",
    "attention_mask", "token_type_ids", "system",
)  # fmt: skip
KNOWN_COLUMNS = frozenset(
    {
        *CANONICAL,
        *TEXT,
        *LABEL,
        *CHAT,
        *(name for pair in (*PAIRS, *COMPLETION, *INSTRUCTION, *REFERENCE) for name in pair),
    }
)
TASKS = ("instruct", "classify", "lm")


@dataclass(frozen=True)
class Layout:
    """The kind of a file's rows, and canonical name -> the column that holds it."""

    kind: str
    columns: dict[str, str]

    def has(self, name: str) -> bool:
        return name in self.columns


def mapped(columns: Iterable[str], mapping: Mapping[str, str], where: str) -> dict[str, str]:
    """Column name as the rules below know it -> column of the file.

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


def layouts(names: Mapping[str, str], *, need_target: bool = True) -> list[Layout]:
    """Every kind of row that these columns can be read as, the most specific first.

    Inputs: `names` from `mapped`; `need_target` False (predict) accepts rows without the label or the completion.
    """
    found: list[Layout] = []

    def add(kind: str, *, optional: Sequence[str] = (), **needed: str) -> None:
        columns = {canonical: names[name] for canonical, name in needed.items()}
        found.append(Layout(kind, columns | {name: names[name] for name in optional if name in names}))

    present = [name for name in LABEL if name in names]
    label = {"label": present[0]} if present else {}
    if "input_ids" in names:
        add("tokens", input_ids="input_ids", optional=("attention_mask", "token_type_ids"), **label)
        return found
    for name in CHAT:
        if name in names:
            add("chat", messages=name, optional=EXTRA_CELLS)
            break
    for kind, pairs in (("completion", COMPLETION), ("instruction", INSTRUCTION), ("reference", REFERENCE)):
        optional = (*EXTRA_CELLS, "input") if kind == "instruction" else EXTRA_CELLS
        for source, target in pairs:
            if source in names and target in names:
                add(kind, source=source, target=target, optional=optional)
                break
        else:
            # What an instruction may have beside it is no prompt of its own.
            alone = {"completion": ("prompt", "query"), "instruction": ("instruction",), "reference": ("input",)}[kind]
            source = next((name for name in alone if name in names), "")
            if not need_target and source and not (kind == "reference" and "instruction" in names):
                add(kind, source=source, optional=optional)
    for first, second in PAIRS:
        if first in names and second in names:
            add("pair", text=first, text_pair=second, **label)
            break
    for text in TEXT:
        if text in names:
            add("text", text=text, **label)
            break
    return found


def infer_task(
    columns: Mapping[str, str] | Iterable[str],
    family_tasks: Sequence[str],
    *,
    sample: Mapping[str, Any] | None = None,
    need_target: bool = True,
    arrays: bool = False,
    where: str = "",
) -> str:
    """The task that rows with these columns stand for, among those the family can do.

    Inputs: `sample`, the first row: for input_ids it tells an int label (classify) from aligned labels; `arrays` True
    for named arrays, which are classified; `where`, the file, for messages.
    Raises: DataError when the columns stand for no task of the family.
    """
    names = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    possible = tasks_of(names, sample or {}, need_target=need_target)
    if arrays and "input_ids" not in names:
        possible = ["classify"]
    for task in possible:
        if task in family_tasks:
            return task
    listed = ", ".join(names.values())
    place = f"{where}: " if where else ""
    if not possible:
        raise DataError(f"{place}no task fits the columns {listed}", hint=_way_out(tuple(family_tasks)))
    raise DataError(
        f"{place}the columns {listed} stand for the task {' or '.join(possible)}, which this model family cannot do",
        hint=f"It does {', '.join(family_tasks)}. Choose another base, or name the task: --task.",
    )


def tasks_of(names: Mapping[str, str], sample: Mapping[str, Any], *, need_target: bool = True) -> list[str]:
    """Tasks that the columns stand for, the likeliest first."""
    possible: list[str] = []
    for layout in layouts(names, need_target=need_target):
        if layout.kind == "tokens":
            label = sample.get(layout.columns["label"]) if layout.has("label") else None
            if label is not None:
                possible += ["lm", "instruct"] if np.ndim(label) else ["classify"]
            else:
                possible += ["lm", "instruct"] + ([] if need_target else ["classify"])
        elif layout.kind in ("text", "pair"):
            if layout.has("label"):
                possible.append("classify")
            else:
                possible += (["lm"] if layout.kind == "text" else []) + ([] if need_target else ["classify"])
        else:
            possible.append("instruct")
    return list(dict.fromkeys(possible))


def pick_layout(
    names: Mapping[str, str], task: str, where: str, *, need_target: bool = True, text_prompts: bool = False
) -> Layout:
    """The reading of these columns that the task asks for.

    Inputs: `text_prompts` True (generation) reads a text column as prompts.
    Raises: DataError listing the columns found and those the task needs.
    """
    kinds = {
        "classify": ("tokens", "pair", "text"),
        "lm": ("tokens", "text"),
        "instruct": ("tokens", "chat", "completion", "instruction", "reference") + (("text",) if text_prompts else ()),
    }[task]
    possible = layouts(names, need_target=need_target)
    for layout in possible:
        if layout.kind not in kinds:
            continue
        if task == "classify" and need_target and not layout.has("label"):
            raise DataError(
                f"{where}: no column 'label', which the task classify needs",
                hint=f"Columns found: {', '.join(names.values())}. Another name is mapped by --set data.columns.label=NAME.",
            )
        return layout
    others = list(dict.fromkeys(task for layout in possible for task in _kind_tasks(layout)))
    raise DataError(
        f"{where}: the columns {', '.join(names.values())} do not fit the task {task}",
        hint=_way_out((task,)) + (f" These columns stand for --task {' or '.join(others)}." if others else ""),
    )


def conversational(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> Layout:
    """The layout of prompts and completions that are lists of messages: a conversation in two columns."""
    if layout.kind != "completion" or not rows or not is_conversation(rows[0].get(layout.columns["source"])):
        return layout
    names = {"source": "prompt", "target": "completion"}
    return Layout("chat", {names.get(name, name): column for name, column in layout.columns.items()})


def _kind_tasks(layout: Layout) -> tuple[str, ...]:
    if layout.kind in ("text", "pair"):
        return ("classify",) if layout.has("label") else ("lm",) if layout.kind == "text" else ()
    return ("instruct",) if layout.kind != "tokens" else ()


def _way_out(tasks: tuple[str, ...]) -> str:
    needs = {
        "classify": "classify needs text (or a pair) and label",
        "lm": "lm needs text",
        "instruct": "instruct needs prompt and completion, instruction and output, input and reference, or messages",
    }
    return (
        "; ".join(needs[task] for task in tasks if task in needs) + ". Map other names: --set data.columns.text=NAME."
    )
