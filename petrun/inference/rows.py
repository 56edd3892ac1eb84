"""Rows for a run: tokenizer, examples, batches, all from the same settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from petrun import console
from petrun.config.load import cache_folder
from petrun.config.schema import DataConfig
from petrun.console import progress
from petrun.data.batches.buckets import Batching, BatchPlan, plan_batches
from petrun.data.batches.pipeline import batches
from petrun.data.batches.rank_share import WHOLE, Share, count_rows, parts
from petrun.data.examples.example_set import ExampleSet
from petrun.data.load import load_examples
from petrun.data.settings import ExampleSettings
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from petrun.errors import ConfigError, DataError, PromptTooLong
from petrun.evaluate.score import filled
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.models.trial import try_net
from petrun.parallel.context import eager
from petrun.tensors.targets import unscored


def open_tokenizer(folder: Path | None) -> Tokenizer | None:
    """The base's tokenizer, or None where its folder has none."""
    return None if folder is None else load_tokenizer(folder)


def open_rows(
    data: DataConfig,
    paths: tuple[str, ...],
    tokenizer: Tokenizer | None,
    *,
    task: str | None,
    tasks: tuple[str, ...],
    hf_config: Mapping[str, Any],
    labels: tuple[str, ...] = (),
    num_labels: int | None = None,
    template: str | Template | None = None,
    weights: tuple[float, ...] = (),
    seed: int = 0,
    need_target: bool = True,
    for_generation: bool = False,
) -> ExampleSet:
    """Read and tokenise files as the data settings console.print, drawing a progress bar and saying how unusual files were read."""
    settings = ExampleSettings(
        task=task,
        seq_len=data.seq_len,
        family_tasks=tasks,
        template=template if template is not None else data.template,
        columns=data.columns,
        format=data.format,
        separator=data.separator,
        encoding=data.encoding,
        on_bad_row=data.on_bad_row,
        labels=labels or data.labels,
        num_labels=num_labels,
        regression=data.regression,
        loss_on=data.loss_on,
        max_rows=data.max_rows,
        need_target=need_target,
        for_generation=for_generation,
        vocab_size=hf_config.get("vocab_size"),
        chat_template_kwargs=data.chat_template_kwargs,
        ignore=data.ignore,
    )
    examples = load_examples(
        list(paths),
        tokenizer,
        settings,
        weights=weights,
        seed=seed,
        cache_dir=cache_folder() / "rows" if data.cache else None,
        progress=progress("tokenize"),
    )
    # Prompts are the same files once more.
    for note in () if for_generation else examples.notes:
        console.print(f"note: {note}")
    return examples


def check_length(seq_len: int, longest: int | None, given: bool, tokens: int) -> int:
    """seq_len held against the model's positions: an error when the user asked for more, else cut down."""
    if longest is None or seq_len <= longest:
        return seq_len
    if given:
        raise ConfigError(
            f"--seq-len {seq_len} is more than the {longest} positions of the model"
            + (f" that {tokens} virtual tokens leave" if tokens else ""),
            hint=f"Give --seq-len {longest} or less.",
        )
    return longest


def require_room(prompts: ExampleSet, positions: int | None) -> None:
    """A prompt that fills all the model's positions leaves none for an answer. Raises DataError naming the row."""
    if positions is None:
        return
    full = np.flatnonzero(prompts.lengths >= positions)
    if len(full):
        row = int(full[0])
        raise PromptTooLong(
            f"{prompts.where(row)}: a prompt of {int(prompts.lengths[row])} tokens leaves no room for an answer in the model's "
            f"{positions} positions",
            hint="Shorten it, or have prompts cut from the left with a smaller --seq-len.",
        )


def require_classes(examples: ExampleSet) -> None:
    """A new classification head needs two classes at least. Raises DataError."""
    if examples.is_regression:
        return
    if examples.task == "classify" and examples.num_labels is not None and examples.num_labels < 2:
        raise DataError(
            f"{examples.files[0]}: all rows have the same label; a classifier needs at least 2 classes",
            hint="Classes that these rows lack are named by --set data.labels=[...]; another column by --set data.columns.label=NAME.",
        )


def require_matching_classes(examples: ExampleSet, labels: tuple[str, ...], classes: int | None) -> None:
    """Refuse names for classes that the model knows by number only: their order would be a guess. Raises DataError."""
    if classes and not labels and examples.labels and not examples.is_arrays:
        raise DataError(
            f"{examples.files[0]}: holds the labels {', '.join(examples.labels)}, but the model knows its {classes} classes by number",
            hint="Name its classes in order: --set data.labels=[...]",
        )


def try_rows(loaded: LoadedModel, examples: ExampleSet) -> None:
    """Find out before any work whether the net takes these rows; a user's own net is run once. Raises DataError, ModelError."""
    few = examples.take(np.arange(min(2, len(examples))))
    batching = plan_batches(few.lengths, batch_size=2, seq_len=max(1, *few.lengths), arrays=few.is_arrays)
    batch = next(mappings(few, batching.epoch(0), loaded.inputs, loaded.pad_token_id))
    if is_factory(loaded.family):
        # Without labels, only the model says what it predicts.
        regression = examples.is_regression or (examples.num_labels == 1 and not examples.has_targets)
        try_net(loaded, batch, examples.num_labels, eager, regression=regression)


def mappings(
    examples: ExampleSet, plan: BatchPlan, inputs: tuple[str, ...], pad_id: int, start: int = 0
) -> Iterator[dict[str, Any]]:
    """The plan's batches as {input: array, "targets": array, "rows": row numbers}."""
    for batch in batches(examples, plan, inputs, pad_id=pad_id, start=start):
        yield {**batch.arrays, "rows": batch.rows}


def endless(
    examples: ExampleSet,
    batching: Batching,
    inputs: tuple[str, ...],
    pad_id: int,
    share: Share = WHOLE,
    start: int = 0,
    full: int = 0,
) -> Iterator[dict[str, Any]]:
    """A rank's share of epoch after epoch, each in the order that (seed, epoch) gives; from batch `start` of the whole run on.

    `full`: rows that each batch has to have, where the graph cuts it; a smaller one is filled up with rows that count for nothing.
    """
    counts = count_rows(examples)
    first, skipped = divmod(start, batching.batches_per_epoch)
    for epoch in count(first):
        begin = skipped if epoch == first else 0
        for part in parts(examples, batching.epoch(epoch), share, counts, inputs, pad_id=pad_id, start=begin):
            yield filled_up(part.mapping, full)


def filled_up(batch: dict[str, Any], full: int) -> dict[str, Any]:
    """At least `full` rows of arrays: copies of the last one, their targets ignored."""
    rows = len(batch["targets"])
    if rows >= full:
        return batch
    more = {name: filled(array, full) for name, array in batch.items() if isinstance(array, np.ndarray)}
    more["targets"][rows:] = unscored(more["targets"].dtype)
    return {**batch, **more}
