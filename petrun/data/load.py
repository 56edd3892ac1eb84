"""Data files -> an ExampleSet: the one door for training, evaluation and prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from petrun.data.examples.build import Settings, build_examples
from petrun.data.examples.cache import load_cached, store_cached
from petrun.data.examples.example_set import ExampleSet, scramble
from petrun.data.formats.encoding import find_encoding
from petrun.data.formats.source import Source, read_sources
from petrun.data.formats.table import binary_format
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer
from petrun.errors import ConfigError, TrainingError

_MOST_COPIES = 10_000
DATA_VERSION = 7
"""Raised whenever the same files would give other examples than before; part of the cache's key."""


def load_examples(
    paths: Sequence[str | Path] | str | Path,
    *,
    task: str | None,
    tokenizer: Tokenizer | None,
    seq_len: int,
    family_tasks: Sequence[str] = ("classify", "lm", "instruct"),
    template: str | Template | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    labels: Sequence[str] = (),
    num_labels: int | None = None,
    regression: bool | None = None,
    loss_on: str = "completion",
    weights: Sequence[float] = (),
    max_rows: int | None = None,
    need_target: bool = True,
    for_generation: bool = False,
    vocab_size: int | None = None,
    eos_ids: Sequence[int] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    on_bad_row: str = "stop",
    ignore: Sequence[str] = (),
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> ExampleSet:
    """Read, tokenise and label all rows of the files, in order.

    Inputs:
        paths: files, folders of files, or some rows of a file (petrun/data/formats/slices.py).
        task: None infers it from the columns and `family_tasks`.
        seq_len: most tokens of a row, special tokens included; the caller has held it against the model's positions.
        labels, num_labels: names in index order, or the number of classes (1: a number), where the model or the training run fixes them.
        regression: labels are numbers to predict (True), classes (False), or what they look like (None).
        encoding: of text files; None: UTF-8, or as detected (petrun/data/formats/encoding.py).
        weights: how often each of `paths` is read; a fraction takes a share of its rows, chosen by `seed`.
        max_rows: of each file; of plain text for lm, blocks.
        need_target: False (predict) accepts rows without label or completion and ignores labels.
        for_generation: rows become prompts (cut from the left), completions references.
        chat_template_kwargs: values for variables of the template, such as enable_thinking, where a row sets none.
        on_bad_row: "stop" names up to twenty rows that cannot be used; "skip" leaves such rows out (`ExampleSet.skipped`).
        eos_ids: more ids that end a sequence, for the statistics. ignore: columns that are not read.
        progress: called with (rows done, rows of the file).
    Raises: DataError; ConfigError for settings that contradict each other; TrainingError when no row has anything supervised.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    _check_weights(weights, files)
    settings = Settings(
        task=task, family_tasks=tuple(family_tasks), seq_len=seq_len, template=template, columns=dict(columns or {}), format=format,
        separator=separator, encoding=encoding, labels=tuple(labels), num_labels=num_labels, regression=regression, loss_on=loss_on,
        max_rows=max_rows, need_target=need_target, for_generation=for_generation, vocab_size=vocab_size, eos_ids=tuple(eos_ids),
        chat_template_kwargs=dict(chat_template_kwargs or {}), ignore=tuple(ignore), on_bad_row=on_bad_row,
    )  # fmt: skip
    given = [read_sources(path) for path in files]
    examples = _cached_or_built([source for one in given for source in one], tokenizer, settings, cache_dir, progress)
    if need_target and not for_generation and examples.task != "classify":
        _require_supervision(examples, seq_len)
    return _weighted(examples, _of_files(weights, given), seed)


def _cached_or_built(
    sources: list[Source],
    tokenizer: Tokenizer | None,
    settings: Settings,
    cache_dir: Path | None,
    progress: Progress | None,
) -> ExampleSet:
    key = _cache_key(sources, tokenizer, settings)
    examples = load_cached(cache_dir, key)
    # The key is of the content: the files may have had other names when the entry was written.
    names = tuple(str(source.path) for source in sources)
    if examples is None or (names != examples.files and (examples.notes or examples.skipped)):
        examples = build_examples(sources, tokenizer, settings, key, progress)
        if not examples.is_arrays:
            store_cached(cache_dir, key, examples)
    return replace(examples, files=names)


def _of_files(weights: Sequence[float], given: Sequence[Sequence[Source]]) -> list[float]:
    """A weight is of what was named, which may be a folder of several files."""
    return [weight for weight, one in zip(weights, given, strict=True) for _ in one] if weights else []


def _check_weights(weights: Sequence[float], files: Sequence[str | Path]) -> None:
    if not files:
        raise ConfigError("no data file given", hint="--data PATH")
    if weights and len(weights) != len(files):
        raise ConfigError(
            f"data.weights: {len(weights)} weight{'s' * (len(weights) != 1)} for {len(files)} file{'s' * (len(files) != 1)}"
        )
    if any(not 0 < weight <= _MOST_COPIES for weight in weights):
        raise ConfigError(
            f"data.weights: every weight is a number above 0 and at most {_MOST_COPIES}",
            hint="To leave a file out, do not name it.",
        )


def _require_supervision(examples: ExampleSet, seq_len: int) -> None:
    stats = examples.stats
    if stats.supervised:
        return
    if stats.completion_gone:
        raise TrainingError(
            f"{examples.files[0]}: nothing is supervised: in {stats.completion_gone} of {stats.used} rows the cut at "
            f"{seq_len} tokens left no completion",
            hint="Choose a longer --seq-len.",
        )
    raise TrainingError(
        f"{examples.files[0]}: nothing is supervised in {stats.used} rows",
        hint="Completions are empty, every label is -100, or rows have one token only.",
    )


def _cache_key(sources: list[Source], tokenizer: Tokenizer | None, settings: Settings) -> str:
    template: object = settings.template
    text = settings.template.text if isinstance(settings.template, Template) else ""
    if isinstance(settings.template, Template):
        template = asdict(settings.template)
    elif settings.template is not None and Path(settings.template).expanduser().is_file():
        text = Path(settings.template).expanduser().read_text("utf-8", errors="replace")
    elif tokenizer is not None:
        text = tokenizer.chat_template or ""
    content = {
        "version": DATA_VERSION,
        "files": [(source.digest, source.suffix, _encoding(source, settings)) for source in sources],
        "tokenizer": tokenizer.digest if tokenizer else "",
        "settings": {name: getattr(settings, name) for name in settings.__dataclass_fields__ if name != "template"},
        "template": [template, text],
        # Templates may write today's date into a prompt.
        "date": date.today().isoformat() if "strftime_now" in text else "",
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _encoding(source: Source, settings: Settings) -> str:
    """How a text file is decoded; "" for files that are no text."""
    kind = settings.format or binary_format(source)
    return "" if kind in ("parquet", "npz") else find_encoding(source, settings.encoding)[0]


def _weighted(examples: ExampleSet, weights: Sequence[float], seed: int) -> ExampleSet:
    """Rows of file f come weights[f] times: whole copies, then a share chosen by the seed."""
    if all(weight == 1 for weight in weights):
        return examples
    taken = []
    for file, weight in enumerate(weights):
        rows = np.flatnonzero(examples.per_row["file"] == file)
        share = round(len(rows) * (weight - int(weight)))
        chosen = np.argsort(scramble(rows, seed, "weights"), kind="stable")[:share]
        taken += [*([rows] * int(weight)), rows[np.sort(chosen)]]
    indices = np.concatenate(taken)
    if not len(indices):
        raise ConfigError("data.weights: these weights leave no row")
    return examples.take(indices)
