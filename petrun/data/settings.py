"""Define the settings of examples, besides the files and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from petrun.data.tasks import DECODER_TASKS
from petrun.data.templates.template import Template


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """Settings of `load_examples`. Every field is part of the cache's key, under its name here."""

    task: str | None
    """None infers the task from the columns and `family_tasks`."""
    seq_len: int
    """Most tokens of a row, special tokens included; the caller has checked it against the model's positions."""
    family_tasks: tuple[str, ...] = ("classify", *DECODER_TASKS)
    template: str | Template | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Canonical column -> column of the file."""
    format: str | None = None
    """Name of a file format; None detects it."""
    separator: str | None = None
    encoding: str | None = None
    """Encoding of text files; None: UTF-8, or detected (petrun/data/formats/encoding.py)."""
    labels: tuple[str, ...] = ()
    """Names in index order, where the user, the model or the training run fixes them."""
    num_labels: int | None = None
    """Number of classes (1: a number to predict), where the model or the training run fixes it."""
    regression: bool | None = None
    """Labels are numbers to predict (True), classes (False), or whichever they look like (None)."""
    loss_on: str = "completion"
    max_rows: int | None = None
    """Rows of each file; of plain text for lm, blocks."""
    need_target: bool = True
    """False (predict) accepts rows without a label or a completion and ignores labels."""
    for_generation: bool = False
    """Rows become prompts, which are cut from the left; completions become references."""
    vocab_size: int | None = None
    eos_ids: tuple[int, ...] = ()
    """More ids that end a sequence, for the statistics."""
    chat_template_kwargs: Mapping[str, bool | float | str] = field(default_factory=dict)
    """Values for variables of the template, such as enable_thinking, where a row sets none."""
    ignore: tuple[str, ...] = ()
    """Columns that are not read."""
    decoder_start: int | None = None
    """Of an encoder-decoder: the token before every target. None: rows are for one net that reads prompt and completion."""
    on_bad_row: str = "stop"
    """"stop" names up to twenty rows that cannot be used; "skip" leaves such rows out (`ExampleSet.skipped`)."""
