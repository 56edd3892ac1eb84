"""`petrun eval` with several deltas: one pass over the data for all of them, and how they compare.

Where they share a graph (see inference/multi_adapter.py) and read the data alike, every row comes once for the base and once for each
delta, and the rows of a batch use different ones. Else they are scored one after another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from petrun import __version__, console
from petrun.console import progress
from petrun.data.batches.buckets import plan_batches
from petrun.data.chat.end_of_turn import Ending
from petrun.data.examples.example_set import ExampleSet
from petrun.data.examples.summary import data_line
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.errors import ConfigError
from petrun.evaluate.bootstrap import Sample, compare, forward_samples, text_samples
from petrun.evaluate.compare import comparison_lines, signature_lines, table
from petrun.evaluate.figures import Scores
from petrun.evaluate.metrics import Answer, Metric, require_packages, select_metrics, signatures
from petrun.evaluate.score import Scorer
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.evaluator import open_writer, spelt
from petrun.inference.multi_adapter import MultiAdapter, open_multi_adapter
from petrun.inference.multi_delta import named_paths
from petrun.inference.rows import mappings
from petrun.inference.settings import Reading, open_reading
from petrun.models.base import LoadedModel
from petrun.tensors.output import check_file, write_text

BASE = "base"


@dataclass(frozen=True)
class Entry:
    """One delta, and the rows as it reads them."""

    reading: Reading
    rows: ExampleSet
    prompts: ExampleSet | None


@dataclass(frozen=True)
class Result:
    """What one of them scored."""

    figures: dict[str, float]
    samples: dict[str, Sample]
    signatures: dict[str, str]
    """How the figures of texts were computed."""


def run(
    flags: Mapping[str, tuple[str, Any]],
    sets: Sequence[str],
    *,
    deltas: Sequence[str],
    alpha: float | None,
    out: str | None,
    seed: int,
) -> None:
    """Score the base and every delta, print all and every pair's difference, and write the numbers. `seed`: of the draws."""
    began = time.perf_counter()
    if seed < 0:
        raise ConfigError(f"--seed {seed} is below 0")
    entries = _entries(flags, sets, named_paths(deltas), alpha)
    first = next(iter(entries.values()))
    for entry in entries.values():
        check_file("--out", out, entry.reading.inputs)
    metrics = select_metrics(first.reading.config.eval.metrics, first.rows.metrics_of)
    require_packages(metrics)
    if any(m.generated for m in metrics):
        entries = {name: replace(e, prompts=_prompts(e)) for name, e in entries.items()}
        first = next(iter(entries.values()))
    console.print(data_line(first.rows))
    results, shared = _results(entries, metrics)
    console.print(table({name: result.figures for name, result in results.items()}))
    computed = results[BASE].signatures
    if computed:
        console.print(signature_lines(computed))
    pairs = {(a, b): compare(results[a].samples, results[b].samples, seed) for a, b in combinations(entries, 2)}
    for (a, b), found in pairs.items():
        console.print(comparison_lines(a, b, found))
    if out is not None:
        told = {
            "base": results[BASE].figures,
            "deltas": {name: results[name].figures for name in entries},
            "comparisons": [{"first": a, "second": b, **asdict(c)} for (a, b), found in pairs.items() for c in found],
            "one_pass": shared,
            "signatures": computed,
            "seed": seed,
            "task": first.rows.task,
            "rows": len(first.rows),
            "data": list(first.reading.paths),
            "seconds": time.perf_counter() - began,
            "petrun_version": __version__,
        }
        write_text(Path(out).expanduser(), json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        console.print(f"wrote {out}")
        write_skipped(Path(f"{out}.{SKIPPED}").expanduser(), first.rows)


def _entries(
    flags: Mapping[str, tuple[str, Any]], sets: Sequence[str], paths: Mapping[str, str], alpha: float | None
) -> dict[str, Entry]:
    """Settings and rows of each. Raises ConfigError where they do not do the same task on the same rows."""
    if BASE in paths:
        raise ConfigError(f"--delta {paths[BASE]}: {BASE!r} is what the base is called", hint="--delta NAME=PATH")
    found: dict[str, Entry] = {}
    for name, path in paths.items():
        reading = open_reading(flags, sets, delta=path, alpha=alpha, embedded_rows=True)
        found[name] = Entry(reading, reading.rows(), None)
    names = list(found)
    first = found[names[0]].rows
    for name in names[1:]:
        rows = found[name].rows
        for what in ("task", "labels", "num_labels"):
            mine, other = getattr(first, what), getattr(rows, what)
            if mine != other:
                raise ConfigError(
                    f"--delta {paths[names[0]]} and --delta {paths[name]} do not do the same: their {what} are {mine} and {other}",
                    hint="Score them apart.",
                )
        if not np.array_equal(first.per_row["row"], rows.per_row["row"]):
            raise ConfigError(f"--delta {paths[names[0]]} and --delta {paths[name]} use different rows of the data")
    return found


def _prompts(entry: Entry) -> ExampleSet:
    return entry.reading.rows(entry.rows.task, for_generation=True)


def _results(entries: Mapping[str, Entry], metrics: tuple[Metric, ...]) -> tuple[dict[str, Result], bool]:
    """Results by name, the base's first; and whether all came of one pass."""
    first = next(iter(entries.values()))
    alike = all(_alike(first.rows, e.rows) and _alike(first.prompts, e.prompts) for e in entries.values())
    why = "" if alike else "their templates or settings make different tokens of the rows"
    if alike:
        loaded, _ = first.reading.net(first.rows)
        try:
            fitted = {name: e.reading.fitted(loaded) for name, e in entries.items()}
            # Room for every row of a batch.
            loaded, multi_adapter = open_multi_adapter(loaded, fitted, first.reading.batch_size)
        except ConfigError as error:
            why = error.message
        else:
            return _together(entries, metrics, loaded, multi_adapter), True
    console.print(f"scored one after another: {why}")
    return _apart(entries, metrics), False


def _alike(first: ExampleSet | None, other: ExampleSet | None) -> bool:
    if first is None or other is None:
        return first is other
    tokens = np.array_equal(first.offsets, other.offsets)
    return tokens and all(np.array_equal(values, other.flat[name]) for name, values in first.flat.items())


def _together(
    entries: Mapping[str, Entry], metrics: tuple[Metric, ...], loaded: LoadedModel, multi_adapter: MultiAdapter
) -> dict[str, Result]:
    """One pass: row i for the k-th of base and deltas is row k * R + i."""
    first = next(iter(entries.values()))
    names, count = (BASE, *entries), len(first.rows)
    rows = first.rows.take(np.tile(np.arange(count), len(names)))
    rows = replace(rows, per_row={**rows.per_row, "row": np.arange(len(rows), dtype=np.int32)})

    def switched() -> Iterator[dict[str, Any]]:
        for batch in _batches(first.reading, rows, loaded):
            multi_adapter.select([int(row) // count for row in batch["rows"]])
            yield batch

    scores = Scorer(loaded.net, loaded.inputs, rows.task)(switched(), progress("score"), len(rows))
    parts = [scores.part(scores.rows // count == k) for k in range(len(names))]
    texts: list[list[Answer]] = [[] for _ in names]
    if first.prompts is not None:
        # The base answers as it would beside the first delta.
        asked = [first, *entries.values()]
        texts = _generate(
            [(first.prompts, e.reading.ending(first.prompts)) for e in asked], first.reading, loaded, multi_adapter
        )
    return {name: _result(parts[k], texts[k], metrics, rows.task) for k, name in enumerate(names)}


def _apart(entries: Mapping[str, Entry], metrics: tuple[Metric, ...]) -> dict[str, Result]:
    """A net for each, compiled anew."""
    found: dict[str, Result] = {}
    first = next(iter(entries.values()))
    for name, entry in {BASE: first, **entries}.items():
        loaded, fitted = entry.reading.net(entry.rows)
        if name != BASE and fitted is not None:
            assembled = attach_delta(loaded, fitted, entry.reading.config.train.seed)
            set_delta(assembled, fitted)
            loaded = assembled.loaded
        rows = entry.rows
        batches = _batches(entry.reading, rows, loaded)
        scores = Scorer(loaded.net, loaded.inputs, rows.task)(batches, progress(f"score {name}"), len(rows))
        texts: list[Answer] = []
        if entry.prompts is not None:
            asked = [(entry.prompts, entry.reading.ending(entry.prompts))]
            texts = _generate(asked, entry.reading, loaded, None)[0]
        found[name] = _result(scores, texts, metrics, rows.task)
    return found


def _batches(reading: Reading, rows: ExampleSet, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    batching = plan_batches(
        rows.lengths,
        batch_size=reading.batch_size,
        seq_len=reading.config.data.seq_len,
        buckets=reading.config.data.buckets,
        order="length",
        arrays=rows.is_arrays,
    )
    return mappings(rows, batching.epoch(0), loaded.inputs, loaded.pad_token_id)


def _generate(
    sets: Sequence[tuple[ExampleSet, Ending]], reading: Reading, loaded: LoadedModel, multi_adapter: MultiAdapter | None
) -> list[list[Answer]]:
    """Greedy answers to the k-th set's prompts by adapter index k, each with its ending, all in one go."""
    tokenizer = reading.tokenizer
    writer = open_writer(loaded, tokenizer, reading.batch_size, None if multi_adapter is None else multi_adapter.select)
    every = [(index, prompts[i], end) for index, (prompts, end) in enumerate(sets) for i in range(len(prompts))]
    found = writer(
        [example.input_ids for _, example, _ in every],
        reading.config.eval.max_new_tokens,
        rows=[example.row for _, example, _ in every],
        adapters=[index for index, _, _ in every],
        endings=[ending for _, _, ending in every],
        progress=progress("generate"),
    )
    answers: list[list[Answer]] = [[] for _ in sets]
    for (index, example, ending), item in zip(every, found, strict=True):
        text = spelt(item.tokens, tokenizer, ending)
        prompt = tuple(example.input_ids.tolist())
        answers[index].append(
            Answer(
                prompt=prompt,
                text=text,
                reference=example.reference or "",
                other_references=example.other_references,
            )
        )
    return answers


def _result(scores: Scores, answers: list[Answer], metrics: tuple[Metric, ...], task: str) -> Result:
    names = [m.name for m in metrics]
    forward = forward_samples(scores, names) or forward_samples(scores, ["loss"])
    samples = {**forward, **text_samples(answers, metrics)}
    figures = {name: s.value(np.arange(s.items)) for name, s in samples.items()}
    return Result(figures, samples, signatures(answers, metrics))
