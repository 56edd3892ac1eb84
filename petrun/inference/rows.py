"""Open the tokenizer, read the rows and batch them, as the data settings say; check that the rows fit the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.load import cache_folder
from petrun.config.schema import DataConfig
from petrun.console import progress
from petrun.data.batches.buckets import BatchPlan, plan_batches
from petrun.data.batches.pipeline import batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.load import load_examples
from petrun.data.settings import ExampleSettings
from petrun.data.tasks import CLASS_TASKS
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from petrun.errors import ConfigError, DataError, PromptTooLong
from petrun.evaluate.score import Batch
from petrun.inference.base_info import BaseInfo
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.models.trial import try_net
from petrun.parallel.context import eager


def open_tokenizer(folder: Path | None) -> Tokenizer | None:
    """Load the base's tokenizer; None where its folder has none."""
    return None if folder is None else load_tokenizer(folder)


def example_settings(
    data: DataConfig,
    base: BaseInfo,
    *,
    task: str | None,
    labels: tuple[str, ...] = (),
    num_labels: int | None = None,
    template: str | Template | None = None,
) -> ExampleSettings:
    """Make the settings of examples from the data settings and the base.

    `labels`: of the model, which data.labels must not contradict; `template`: instead of that of the data settings.
    Raises: ConfigError for data.labels that are not the model's, in its order.
    """
    if labels and data.labels and data.labels != tuple(labels):
        raise ConfigError(
            f"data.labels: {', '.join(data.labels)}, but the model's classes are {', '.join(labels)}, in this order",
            hint="Leave it out; other classes need a new head: --set model.fresh_head=true, and no --init-delta.",
        )
    return ExampleSettings(
        task=task,
        seq_len=data.seq_len,
        family_tasks=base.tasks,
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
        vocab_size=base.vocabulary,
        chat_template_kwargs=data.chat_template_kwargs,
        ignore=data.ignore,
        decoder_start=base.decoder_start,
    )


def open_rows(
    data: DataConfig,
    paths: tuple[str, ...],
    tokenizer: Tokenizer | None,
    settings: ExampleSettings,
    *,
    weights: tuple[float, ...] = (),
    shares: tuple[float, ...] = (),
    seed: int = 0,
) -> ExampleSet:
    """Read and tokenise files, with a progress bar, and print notes about files that were read in an unusual way.

    `data`: whether rows are cached; `weights`, `shares`, `seed`: as load_examples.
    """
    examples = load_examples(
        list(paths),
        tokenizer,
        settings,
        weights=weights,
        shares=shares,
        seed=seed,
        cache_dir=cache_folder() / "rows" if data.cache else None,
        progress=progress("tokenize"),
    )
    # Prompts come from files whose notes have been printed.
    for note in () if settings.for_generation else examples.notes:
        console.print(f"note: {note}")
    return examples


def check_length(seq_len: int, longest: int | None, given: bool, tokens: int) -> int:
    """Limit seq_len to the model's positions. Raises ConfigError where the user gave more (`given`).

    `tokens`: positions that virtual tokens take, for the message.
    """
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
    """Raises PromptTooLong, which names the row, for a prompt that leaves no position for an answer."""
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
    """Raises DataError where a new classification head would have fewer than two classes."""
    if examples.is_regression:
        return
    if examples.task in CLASS_TASKS and examples.num_labels is not None and examples.num_labels < 2:
        raise DataError(
            f"{examples.files[0]}: all rows have the same label; a classifier needs at least 2 classes",
            hint="Classes that these rows lack are named by --set data.labels=[...]; another column by --set data.columns.label=NAME.",
        )


def require_matching_classes(examples: ExampleSet, labels: tuple[str, ...], classes: int | None) -> None:
    """Raises DataError where rows name classes that the model knows by number only: their order would be a guess."""
    if classes and not labels and examples.labels and not examples.is_arrays:
        raise DataError(
            f"{examples.files[0]}: holds the labels {', '.join(examples.labels)}, but the model knows its {classes} classes by number",
            hint="Name its classes in order: --set data.labels=[...]",
        )


def try_rows(loaded: LoadedModel, examples: ExampleSet) -> None:
    """Check before any work that the net takes these rows; a user's own net is run once. Raises DataError, ModelError."""
    few = examples.take(np.arange(min(2, len(examples))))
    longest = max(1, int(few.batch_lengths.max()))
    batching = plan_batches(few.batch_lengths, batch_size=2, seq_len=longest, arrays=few.is_arrays)
    batch = next(scoring_batches(few, batching.epoch(0), loaded.inputs, loaded.pad_token_id))
    if is_factory(loaded.family):
        # Without labels, only the model determines what it predicts.
        regression = examples.is_regression or (examples.num_labels == 1 and not examples.has_targets)
        try_net(loaded, batch, examples.num_labels, eager, regression=regression)


def scoring_batches(
    examples: ExampleSet, plan: BatchPlan, inputs: tuple[str, ...], pad_id: int, start: int = 0
) -> Iterator[Batch]:
    """Yield the plan's batches as {input: array, "targets": array, "rows": row numbers}."""
    for batch in batches(examples, plan, inputs, pad_id=pad_id, start=start):
        yield {**batch.arrays, "rows": np.asarray(batch.rows, np.int64)}
