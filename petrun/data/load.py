"""Load data files as an ExampleSet: the one entry point for training, evaluation and prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path

import numpy as np

from petrun.data.examples.build import build_examples
from petrun.data.examples.cache import load_cached, store_cached
from petrun.data.examples.example_set import ExampleSet, scramble
from petrun.data.formats.encoding import find_encoding
from petrun.data.formats.folder import read_sources
from petrun.data.formats.records import Array
from petrun.data.formats.source import Source
from petrun.data.formats.table import binary_format, find_format
from petrun.data.rows.shares import share_out
from petrun.data.settings import ExampleSettings
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Progress, Tokenizer
from petrun.errors import ConfigError, TrainingError

_MOST_COPIES = 10_000
DATA_VERSION = 8
"""Raised whenever the same files would give other examples than before; part of the cache's key."""


def load_examples(
    paths: Sequence[str | Path] | str | Path,
    tokenizer: Tokenizer | None,
    settings: ExampleSettings,
    *,
    weights: Sequence[float] = (),
    shares: Sequence[float] = (),
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> ExampleSet:
    """Read, tokenise and label all rows of the files, in order.

    Inputs:
        paths: files, folders of files, or some rows of a file (petrun/data/formats/slices.py).
        tokenizer: None for arrays and for rows of token ids.
        weights: how often each of `paths` is read; a fraction takes a share of its rows, chosen by `seed`.
        shares: instead of weights: how large a share of all rows each of `paths` gives, over their sum; as many rows as leave every row
            read at most once.
        cache_dir: folder of the cache; None reads and writes none.
        progress: called with (rows done, rows of the file).
    Raises: DataError; ConfigError for settings that contradict each other; TrainingError when no row has anything supervised.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    _check_weights(weights, shares, files)
    sources_of = [read_sources(path) for path in files]
    sources = [source for of_path in sources_of for source in of_path]
    examples = _cached_or_built(sources, tokenizer, settings, cache_dir, progress)
    if settings.need_target and not settings.for_generation and examples.task != "classify":
        _require_supervision(examples, settings.seq_len)
    if not (weights or shares):
        return examples
    # A path may name a folder of several files.
    path_of_file = np.repeat(np.arange(len(files)), [len(of_path) for of_path in sources_of])
    rows_of = [np.flatnonzero(path_of_file[examples.per_row["file"]] == path) for path in range(len(files))]
    if shares:
        counts = [len(rows) for rows in rows_of]
        wanted = share_out(shares, counts, None)
        weights = [want / count for want, count in zip(wanted, counts, strict=True)]
        told = ", ".join(f"{want:,} of {file}'s {n:,}" for want, file, n in zip(wanted, files, counts, strict=True))
        examples = replace(examples, notes=(*examples.notes, f"rows by shares: {told}"))
    return _weighted(examples, rows_of, weights, seed)


def _cached_or_built(
    sources: list[Source],
    tokenizer: Tokenizer | None,
    settings: ExampleSettings,
    cache_dir: Path | None,
    progress: Progress | None,
) -> ExampleSet:
    key = _cache_key(sources, tokenizer, settings)
    examples = load_cached(cache_dir, key)
    # The key is made of the content: the files may have had other names when the entry was written.
    names = tuple(str(source.path) for source in sources)
    if examples is None or (names != examples.files and (examples.notes or examples.skipped)):
        examples = build_examples(sources, tokenizer, settings, key, progress, cache_dir)
        if not examples.is_arrays:
            store_cached(cache_dir, key, examples)
    return replace(
        examples, files=names, encoder_decoder=settings.decoder_start is not None and not settings.for_generation
    )


def _check_weights(weights: Sequence[float], shares: Sequence[float], files: Sequence[str | Path]) -> None:
    if not files:
        raise ConfigError("no data file given", hint="--data PATH")
    if weights and shares:
        raise ConfigError("data.weights and data.shares: rows are taken by one of them", hint="Leave one out.")
    for key, given in (("weights", weights), ("shares", shares)):
        if given and len(given) != len(files):
            raise ConfigError(
                f"data.{key}: {len(given)} {key[:-1] if len(given) == 1 else key} for {len(files)} file{'s' * (len(files) != 1)}"
            )
    if len(shares) == 1:
        raise ConfigError(
            f"{files[0]}: a share of one file alone; shares are of the rows of all files",
            hint=f"{files[0]}#500 takes the first 500 rows of a file, data.weights=0.5 half of its rows.",
        )
    if any(share <= 0 for share in shares):
        raise ConfigError("data.shares: every share is a number above 0", hint="To leave a file out, do not name it.")
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


def _cache_key(sources: list[Source], tokenizer: Tokenizer | None, settings: ExampleSettings) -> str:
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
        "settings": {
            f.name: getattr(settings, f.name)
            for f in fields(settings)
            # Of other nets it is None, and their keys stay what they were without it.
            if f.name != "template" and (f.name != "decoder_start" or settings.decoder_start is not None)
        },
        "template": [template, text],
        # Templates may write today's date into a prompt.
        "date": date.today().isoformat() if "strftime_now" in text else "",
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _encoding(source: Source, settings: ExampleSettings) -> str:
    """Return the encoding of a text file; "" for binary files."""
    format = find_format(settings.format) if settings.format else binary_format(source)
    return "" if format is not None and format.binary else find_encoding(source, settings.encoding)[0]


def _weighted(examples: ExampleSet, rows_of: Sequence[Array], weights: Sequence[float], seed: int) -> ExampleSet:
    """Repeat the rows rows_of[i] weights[i] times: complete copies, then a share chosen by the seed."""
    if all(weight == 1 for weight in weights):
        return examples
    taken = []
    for rows, weight in zip(rows_of, weights, strict=True):
        share = round(len(rows) * (weight - int(weight)))
        chosen = np.argsort(scramble(rows, seed, "weights"), kind="stable")[:share]
        taken += [*([rows] * int(weight)), rows[np.sort(chosen)]]
    indices = np.concatenate(taken)
    if not len(indices):
        raise ConfigError("data.weights: these weights leave no row")
    return examples.take(indices)
