"""Define the kinds of rows: one record each says which columns form such a row and which tasks can use it.

Rows with a prompt or messages may also hold system, history, tools, enable_thinking and chat_template_kwargs
(petrun/data/chat/messages.py). Named arrays (npz) without input_ids have no kind: petrun/data/encode/arrays.py reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from petrun.data.chat.messages import EXTRA_CELLS
from petrun.data.tasks import TOKENS, UNPAIRED

LABEL = ("label", "labels")


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """One kind of rows."""

    name: str
    """The name in data sets, caches and manifests."""
    columns: tuple[Mapping[str, str], ...]
    """Columns that form such a row, the preferred ones first: canonical name -> name of the column."""
    optional: tuple[str, ...] = ()
    """Columns that the row may hold as well."""
    lone_prompts: tuple[str, ...] = ()
    """Columns that form such a row without a completion, for prediction."""
    lone_unless: str = ""
    """Beside this column a lone prompt belongs to another kind."""
    tasks: tuple[str, ...] = ("instruct",)
    """Tasks that can use the rows."""
    unlabelled_tasks: tuple[str, ...] = ("instruct",)
    """Tasks of rows without a label, the likeliest first."""
    labelled: bool = False
    """Whether the row may hold a label, which means the task `labelled_task`."""
    labelled_task: str = "classify"
    aligned_labels: bool = False
    """Whether the label may be a list, aligned with the tokens: then the row is for `unlabelled_tasks`."""
    true_or_false: bool = False
    """Whether the label says true or false: beside another one, the columns are those of a kind without it."""
    token_ids: bool = False
    """Whether the row holds token ids: it needs no tokenizer and is of no other kind. Integer labels are class indices."""
    plain_text: bool = False
    """Whether generation may read the text as a prompt."""
    as_messages: str = ""
    """Name of the rows' kind where prompt and completion are lists of messages."""
    conversation: bool = False
    """Whether the row holds messages, which need a chat template."""
    templated: bool = False
    """Whether the row has a prompt, which a template renders."""
    tokenizer_template: bool = False
    """Whether the tokenizer's chat template is preferred to `default_template`."""
    default_template: str = ""
    """Name of the built-in template that is used where none is given; "" for none."""
    template_column: str = ""
    """Name that a prompt template uses for the column with the user's words."""


def _source_and_target(*pairs: tuple[str, str]) -> tuple[Mapping[str, str], ...]:
    return tuple({"source": source, "target": target} for source, target in pairs)


ROW_KINDS = (
    RowKind(
        name="tokens",
        columns=({"input_ids": "input_ids"},),
        optional=("attention_mask", "token_type_ids"),
        tasks=("lm", "instruct", "classify"),
        unlabelled_tasks=("lm", "instruct"),
        labelled=True,
        aligned_labels=True,
        token_ids=True,
    ),
    RowKind(
        name="preference",
        columns=(
            *(
                {"source": source, "target": "chosen", "rejected": "rejected"}
                for source in ("prompt", "question", "messages", "conversations")
            ),
            # Two conversations, or two texts, that begin alike.
            {"target": "chosen", "rejected": "rejected"},
        ),
        optional=EXTRA_CELLS,
        tasks=("preference", "instruct"),
        unlabelled_tasks=("preference",),
        as_messages="chat",
        templated=True,
        default_template="plain",
        template_column="prompt",
    ),
    RowKind(
        name=UNPAIRED,
        columns=tuple(
            {"source": source, "target": "completion", "label": "label"}
            for source in ("prompt", "messages", "conversations")
        ),
        optional=EXTRA_CELLS,
        tasks=("preference",),
        unlabelled_tasks=("preference",),
        labelled=True,
        labelled_task="preference",
        true_or_false=True,
        as_messages="chat",
        templated=True,
        default_template="plain",
        template_column="prompt",
    ),
    RowKind(
        name="chat",
        columns=tuple({"messages": name} for name in ("messages", "conversations", "conversation")),
        optional=EXTRA_CELLS,
        conversation=True,
        templated=True,
        tokenizer_template=True,
    ),
    RowKind(
        name="completion",
        columns=_source_and_target(("prompt", "completion"), ("prompt", "response"), ("query", "response")),
        optional=EXTRA_CELLS,
        lone_prompts=("prompt", "query"),
        as_messages="chat",
        templated=True,
        default_template="plain",
        template_column="prompt",
    ),
    RowKind(
        name="instruction",
        columns=_source_and_target(("instruction", "output"), ("instruction", "response")),
        optional=(*EXTRA_CELLS, "input"),
        lone_prompts=("instruction",),
        templated=True,
        tokenizer_template=True,
        default_template="alpaca",
        template_column="instruction",
    ),
    RowKind(
        name="reference",
        columns=_source_and_target(("input", "reference"), ("input", "output"), ("question", "answer")),
        optional=EXTRA_CELLS,
        lone_prompts=("input",),
        # The input of an instruction is not a prompt by itself.
        lone_unless="instruction",
        templated=True,
        default_template="plain",
        template_column="input",
    ),
    RowKind(
        name="pair",
        columns=tuple(
            {"text": first, "text_pair": second}
            for first, second in (
                ("text", "text_pair"), ("sentence", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
                ("question1", "question2"), ("text_a", "text_b"), ("text1", "text2"), ("question", "sentence"), ("question", "passage"),
            )
        ),
        tasks=("classify",),
        unlabelled_tasks=(),
        labelled=True,
    ),
    RowKind(
        name="text",
        columns=({"text": "text"}, {"text": "sentence"}),
        tasks=("classify", "lm"),
        unlabelled_tasks=("lm",),
        labelled=True,
        plain_text=True,
    ),
    RowKind(
        name="words",
        columns=(
            *({"words": words, "label": tags} for words in ("tokens", "words") for tags in ("tags", "ner_tags")),
            {"words": "tokens"},
            {"words": "words"},
        ),
        tasks=(TOKENS,),
        unlabelled_tasks=(),
        labelled=True,
        labelled_task=TOKENS,
    ),
)  # fmt: skip
"""Every kind, the most specific first."""
_BY_NAME = {kind.name: kind for kind in ROW_KINDS}

CANONICAL = (
    "text", "text_pair", "label", "prompt", "completion", "instruction", "input", "output", "reference", "messages", "input_ids",
    "attention_mask", "token_type_ids", "system", "chosen", "rejected", "words",
)  # fmt: skip
"""Names to which a column of a file can be mapped: data.columns.text=content."""
KNOWN_COLUMNS = frozenset(
    {*CANONICAL, *LABEL, *(name for kind in ROW_KINDS for columns in kind.columns for name in columns.values())}
)
"""Every name of a column that is read without a mapping."""


def row_kind(name: str) -> RowKind:
    """Return the kind of this name."""
    return _BY_NAME[name]


def template_column(kind: str | None) -> str:
    """Return a prompt template's name for the column with the user's words of such rows; "" for rows without a prompt template."""
    return _BY_NAME[kind].template_column if kind is not None and kind in _BY_NAME else ""
