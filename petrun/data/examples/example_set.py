"""Define the set of examples: tokenised rows of different lengths, in the data's order.

Letters: n rows, t tokens of one row, S the sum of all t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from petrun.data.examples.array_store import release_pages
from petrun.data.examples.texts import Texts
from petrun.data.formats.records import Array
from petrun.data.formats.table import find_format
from petrun.data.tasks import PREFERENCE, UNPAIRED
from petrun.data.templates.template import Template
from petrun.errors import DataError
from petrun.tensors.targets import IGNORED as IGNORED
from petrun.tensors.targets import is_scored

_BLOCK_TOKENS = 2**20
BASE_LOG_PROBS = "base_log_probs"
"""For rows of PREFERENCE the log-probabilities of both answers by the net that a run begins from, each the sum over its tokens, in nats."""
DESIRABLE = "desirable"
"""For rows of PREFERENCE with one answer each their labels as an input of the loss: 1 where it is desirable, 0 where it is not."""
LATENTS, STATES = "latents", "states"
"""For rows of IMAGE what the pipeline's autoencoder and text encoder compute of a picture and of its caption."""
COMPUTED = (BASE_LOG_PROBS, LATENTS, STATES)
"""What nets compute of rows, and no file holds."""
ARRAYS, STREAM, PICTURES = "arrays", "stream", "pictures"
"""`ExampleSet.kind` of named arrays, of blocks of plain text, and of pictures, each of which is one of `files`."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts of the rows that were read and of their tokens."""

    read: int = 0
    used: int = 0
    """Rows in the set, before file weights repeat or sample them."""
    cut: int = 0
    """Rows longer than the limit: their end (of a generation prompt: its beginning) was truncated."""
    completion_gone: int = 0
    """Rows of which truncation left nothing to learn."""
    empty: int = 0
    """Rows without text: for lm they are left out; other tasks use them."""
    tokens: int = 0
    supervised: int = 0
    """Tokens that are scored: a label that is not -100 at any position but a row's first."""
    bad: int = 0
    """Rows that could not be used and were left out."""
    eos_supervised: int = 0
    """Rows whose last scored label is an end-of-sequence token."""
    unknown: int = 0
    """Unknown tokens, and characters that the tokenizer leaves out."""

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row."""

    row: int
    """Index in the data's order: over all files, as read."""
    input_ids: Array
    """(t,) int32; empty for array data."""
    mask: Array
    """(t,) int32: 1 for tokens, 0 for padding that the data itself holds; 2 for the tokens of a second sequence: in a row of PREFERENCE the
    prompt with the rejected answer or with another row's, for an encoder-decoder the target."""
    labels: Array | None
    """(t,) int32 aligned with input_ids, NOT shifted, -100 = not scored; None for classification."""
    label: int | float
    """Class index, -100 where there is none; or the number to predict, NaN where there is none.
    In a row of PREFERENCE with one answer 1 where that is desirable, 0 where it is not."""
    token_type_ids: Array
    """(t,) int32."""
    prompt_length: int
    """Tokens before the first completion token; t for generation; 0 without a prompt."""
    reference: str | None
    """The completion as text, for generation metrics."""
    arrays: dict[str, Array] = field(default_factory=dict)
    """Array data: one row of each array but the label."""
    other_references: tuple[str, ...] = ()
    """Further correct texts beside `reference`."""

    def require_reference(self) -> str:
        """Return the text that an answer is compared with. Raises DataError where the row has none: its score would be 0, whatever is
        answered."""
        if self.reference is None:
            raise DataError(
                f"row {self.row} has no completion, which its answer should be compared with",
                hint="Metrics of generated text need rows with prompt and completion.",
            )
        return self.reference


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """All rows of a data set as flat arrays; `examples[i]` gives one as an `Example`."""

    task: str
    kind: str
    """Name of the rows' kind (petrun/data/rows/kinds.py); ARRAYS or STREAM for rows without one."""
    offsets: Array = field(repr=False)
    """(n + 1,) int64: row i is flat[offsets[i]:offsets[i + 1]]."""
    flat: dict[str, Array] = field(repr=False)
    """(S,) int32 each: input_ids; labels (decoders); token_type_ids and mask where they are not constant."""
    per_row: dict[str, Array] = field(repr=False)
    """(n,) each: row, label, prompt_length, file, line. int32; label float32 where it is a number to predict. BASE_LOG_PROBS, where it was
    computed: (n, 2) float64."""
    arrays: dict[str, Array] = field(default_factory=dict, repr=False)
    """Array data: (n, ...) each."""
    references: Sequence[str | None] = field(default=(), repr=False)
    """The completions as text; () where no row has one."""
    other_references: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """The references beside the first, for prompts with several; () where no row has any."""
    labels: tuple[str, ...] = ()
    """Label names in index order; () where classes are plain integers."""
    num_labels: int | None = None
    """Classes; 1 for a number to predict."""
    files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Columns found in the first file."""
    unused_columns: tuple[str, ...] = ()
    """Columns that neither a rule nor the template reads."""
    unused_keys: tuple[str, ...] = ()
    """Keys of messages that the chat template does not read."""
    unknown_texts: tuple[str, ...] = ()
    """Some texts that the tokenizer does not know, the commonest first."""
    formats: tuple[str, ...] = ()
    stats: Stats = field(default_factory=Stats)
    template: Template | None = None
    encoder_decoder: bool = False
    """Whether each row is for an encoder-decoder: its source with mask 1, then its target with mask 2, behind the token that begins it."""
    digest: str = ""
    """SHA-256 over the files' content, the tokenizer and every setting that shapes the rows."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the files were read."""
    skipped: tuple[str, ...] = field(default=(), repr=False)
    """Rows that could not be used and were left out, each as JSON with its file, line and problem."""

    def __len__(self) -> int:
        return len(self.per_row["row"])

    @property
    def lengths(self) -> Array:
        """(n,) int64 tokens; ones for array data, which has no length."""
        return np.diff(self.offsets) if "input_ids" in self.flat else np.ones(len(self), np.int64)

    @property
    def batch_lengths(self) -> Array:
        """Return what batches are planned by, as plan_batches takes it: the lengths, or (n, 2) int64 for an encoder-decoder."""
        if not self.encoder_decoder:
            return self.lengths
        sources = self.per_row["prompt_length"].astype(np.int64)
        # The decoder is not given a target's last token.
        return np.stack([sources, self.lengths - sources - 1], axis=1)

    def longest_row(self, seq_len: int) -> int:
        """Return how many tokens a row may have whose sequences have at most `seq_len`."""
        return seq_len * sequences_per_row(self.task)

    @property
    def is_arrays(self) -> bool:
        return bool(self.arrays)

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to predict, not classes."""
        return self.per_row["label"].dtype.kind == "f"

    @property
    def metrics_of(self) -> str:
        """The name under which the metrics for the rows are listed: the task, regression, or unpaired."""
        return "regression" if self.is_regression else UNPAIRED if self.is_unpaired else self.task

    @property
    def is_unpaired(self) -> bool:
        """Whether these are rows of PREFERENCE with one answer each, desirable or not."""
        return self.task == PREFERENCE and bool(is_scored(self.per_row["label"]).all())

    @property
    def has_targets(self) -> bool:
        return "labels" in self.flat or bool(is_scored(self.per_row["label"]).any())

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids = self.flat["input_ids"][part] if "input_ids" in self.flat else np.zeros(0, np.int32)
        return Example(
            row=int(self.per_row["row"][index]),
            input_ids=ids,
            mask=self.flat["mask"][part] if "mask" in self.flat else np.ones_like(ids),
            labels=self.flat["labels"][part] if "labels" in self.flat else None,
            label=self.per_row["label"][index].item(),
            token_type_ids=self.flat["token_type_ids"][part] if "token_type_ids" in self.flat else np.zeros_like(ids),
            prompt_length=int(self.per_row["prompt_length"][index]),
            reference=self.references[index] if self.references else None,
            other_references=self.other_references[index] if self.other_references else (),
            arrays={name: array[index] for name, array in self.arrays.items()},
        )

    def blocks(self) -> Iterator[ExampleSet]:
        """Yield all rows in order, as sets of about a million tokens whose arrays are views; `stats` and texts are left out.

        A pass over the blocks leaves no memory in use where the arrays are mapped from a file.
        """
        first = 0
        while first < len(self):
            # At least one row; array data counts a row as one token.
            reach = int(np.searchsorted(self.offsets, self.offsets[first] + _BLOCK_TOKENS, side="right")) - 1
            last = min(len(self), max(first + 1, reach))
            part = slice(int(self.offsets[first]), int(self.offsets[last]))
            yield replace(
                self,
                offsets=self.offsets[first : last + 1] - self.offsets[first],
                flat={name: values[part] for name, values in self.flat.items()},
                per_row={name: values[first:last] for name, values in self.per_row.items()},
                arrays={name: array[first:last] for name, array in self.arrays.items()},
                references=(),
                other_references=(),
                stats=Stats(),
            )
            for values in self.flat.values():
                release_pages(values)
            first = last

    def where(self, index: int) -> str:
        """Name the row at `index`: 'train.jsonl, line 7'."""
        file = int(self.per_row["file"][index])
        if self.kind == PICTURES:
            return self.files[file]
        unit = "block" if self.kind == STREAM else find_format(self.formats[file]).unit
        return f"{self.files[file]}, {unit} {int(self.per_row['line'][index])}"

    def take(self, indices: Array) -> ExampleSet:
        """Return the rows at `indices`, in that order; an index may occur twice. `stats` stay those of the complete set."""
        indices = np.asarray(indices, np.int64)
        lengths = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Old position of every token that is kept: its row's old start plus its offset within the row.
        positions = np.repeat(self.offsets[indices] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return replace(
            self,
            offsets=offsets,
            flat={name: values[positions] for name, values in self.flat.items()},
            per_row={name: values[indices] for name, values in self.per_row.items()},
            arrays={name: array[indices] for name, array in self.arrays.items()},
            references=Texts.of([self.references[i] for i in indices]) if self.references else (),
            other_references=tuple(self.other_references[i] for i in indices) if self.other_references else (),
        )


def sequences_per_row(task: str) -> int:
    """Return how many sequences a row of the task has, between which there is no attention."""
    return 2 if task == PREFERENCE else 1


def split(examples: ExampleSet, share: float, seed: int) -> tuple[ExampleSet, ExampleSet]:
    """Split into (train, held out): `share` of the rows, at least one, chosen by `seed` alone; both keep the data's order.

    Copies of a row (file weights) stay on one side, and the held-out side has each row once.
    Raises: DataError when either side would be empty.
    """
    rows = examples.per_row["row"]
    distinct = np.unique(rows)
    count = max(1, round(len(distinct) * share))
    if count >= len(distinct):
        raise DataError(
            f"data.eval_split: {share:g} of {len(distinct)} rows leaves nothing to train on",
            hint="Give more rows, or --eval-data.",
        )
    order = np.argsort(scramble(distinct, seed, "split"), kind="stable")
    chosen = np.isin(rows, distinct[order[:count]])
    held = np.flatnonzero(chosen)
    _, first = np.unique(rows[held], return_index=True)
    return examples.take(np.flatnonzero(~chosen)), examples.take(held[np.sort(first)])


def scramble(values: Array, *key: Any) -> Array:
    """Hash (n,) integers to (n,) uint64 that look random and are a pure function of value and key, in any numpy version.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied to value and key.
    """
    state = 0x9E3779B97F4A7C15
    for part in key:
        for byte in str(part).encode() + b"\0":
            state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    x = np.asarray(values).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(state)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
