"""`petrun predict`: one JSON object a row, in the data's order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrun import console
from petrun.console import progress
from petrun.data.batches.buckets import plan_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.errors import ConfigError
from petrun.evaluate.metrics import probabilities
from petrun.evaluate.score import Scorer, logits
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.evaluator import open_writer, texts
from petrun.inference.rows import mappings
from petrun.inference.settings import Reading, open_reading
from petrun.models.base import LoadedModel
from petrun.tensors import Array, array_entries, write_safetensors
from petrun.tensors.output import check_file, write_text

_MOST_LOGIT_BYTES = 8_000_000_000


def run(
    flags: Mapping[str, tuple[str, Any]],
    sets: Sequence[str],
    *,
    delta: str | None,
    alpha: float | None,
    out: str | None,
    logits_file: str | None,
) -> None:
    """Predict every row and write the file."""
    if out is None and logits_file is None:
        raise ConfigError("--out is missing: the file to write predictions to", hint="Example: --out predictions.jsonl")
    if logits_file is not None and not logits_file.endswith(".safetensors"):
        raise ConfigError(
            f"--logits {logits_file} must end in .safetensors", hint="Example: --logits logits.safetensors"
        )
    reading = open_reading(flags, sets, delta=delta, alpha=alpha, embedded_rows=True)
    check_file("--out", out, reading.inputs)
    check_file("--logits", logits_file, reading.inputs)
    rows = reading.rows(need_target=False)
    if rows.task == "lm":
        # The loss of a row is what is predicted: labels say which of its tokens count.
        rows = reading.rows("lm")
    loaded, fitted = reading.net(rows)
    if fitted is not None:
        assembled = attach_delta(loaded, fitted, reading.config.train.seed)
        set_delta(assembled, fitted)
        loaded = assembled.loaded
    if out is not None:
        lines = [json.dumps(item, ensure_ascii=False) for item in predictions(reading, rows, loaded)]
        write_text(Path(out).expanduser(), "".join(line + "\n" for line in lines))
        console.print(f"wrote {len(lines)} rows to {out}")
        write_skipped(Path(f"{out}.{SKIPPED}").expanduser(), rows)
    if logits_file is not None:
        shape = write_logits(Path(logits_file).expanduser(), reading, rows, loaded)
        console.print(f"wrote logits {shape} to {logits_file}")


def predictions(reading: Reading, rows: ExampleSet, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    """One object a row: class and scores, or the number that a net with one output predicts, generated text, or the loss of the row."""
    if rows.task == "instruct":
        yield from _generated(reading, loaded)
    elif rows.task == "classify":
        yield from _classified(reading, rows, loaded)
    else:
        yield from _scored(reading, rows, loaded)


def _batches(
    reading: Reading, rows: ExampleSet, loaded: LoadedModel, *, in_order: bool = False
) -> Iterator[dict[str, Any]]:
    batching = plan_batches(
        rows.lengths,
        batch_size=reading.batch_size,
        seq_len=reading.config.data.seq_len,
        buckets=reading.config.data.buckets,
        order="file" if in_order else "length",
        arrays=rows.is_arrays,
    )
    return mappings(rows, batching.epoch(0), loaded.inputs, loaded.pad_token_id)


def _classified(reading: Reading, rows: ExampleSet, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    names = rows.labels or reading.labels
    found: dict[int, Array] = {}
    for numbers, values in logits(
        loaded.net, _batches(reading, rows, loaded), loaded.inputs, progress("predict"), len(rows)
    ):
        found.update(zip(numbers.tolist(), values, strict=True))
    for row in sorted(found):
        if len(found[row]) == 1:
            # One output is a number, and no class.
            yield {"row": row, "prediction": float(found[row][0])}
            continue
        share = probabilities(found[row])
        best = int(share.argmax())
        scores: Any = share.tolist()
        # A user's own net may have more outputs than the labels it was trained on.
        names = (*names, *map(str, range(len(names), len(scores)))) if names else ()
        yield {
            "row": row,
            "label": names[best] if names else best,
            "score": scores[best],
            "scores": dict(zip(names, scores, strict=True)) if names else scores,
        }


def _scored(reading: Reading, rows: ExampleSet, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    scorer = Scorer(loaded.net, loaded.inputs, rows.task)
    scores = scorer(_batches(reading, rows, loaded), progress("predict"), len(rows))
    for row, loss, count, hits in zip(scores.rows, scores.losses, scores.counts, scores.hits, strict=True):
        mean = float(loss) / int(count) if count else None
        yield {
            "row": int(row),
            "loss": mean,
            "perplexity": float(np.exp(min(mean, 700.0))) if mean is not None else None,
            "tokens": int(count),
            "token_accuracy": int(hits) / int(count) if count else None,
        }


def _generated(reading: Reading, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    prompts = reading.rows("instruct", need_target=False, for_generation=True)
    limit = reading.config.eval.max_new_tokens
    writer = open_writer(loaded, reading.tokenizer, reading.batch_size)
    answers = texts(writer, prompts, reading.tokenizer, limit, "generate", ending=reading.ending(prompts))
    for i, answer in enumerate(answers):
        example = prompts[i]
        item: dict[str, Any] = {"row": example.row, "prediction": answer}
        if example.reference is not None:
            item["reference"] = example.reference
        if example.other_references:
            item["other_references"] = list(example.other_references)
        yield item


def write_logits(path: Path, reading: Reading, rows: ExampleSet, loaded: LoadedModel) -> tuple[int, ...]:
    """Store the logits of all rows, in the data's order, as tensor `logits`: (B, C), or (B, T, V) with T the longest row and 0
    behind a shorter one. Returns the shape."""
    position = {int(row): i for i, row in enumerate(rows.per_row["row"])}
    lengths = rows.lengths
    longest = int(lengths.max())
    stored: Array | None = None
    for numbers, values in logits(
        loaded.net, _batches(reading, rows, loaded, in_order=True), loaded.inputs, progress("logits"), len(rows)
    ):
        if stored is None:
            shape = (len(rows), *((longest, values.shape[2]) if values.ndim == 3 else values.shape[1:]))
            _refuse_huge(shape)
            stored = np.zeros(shape, np.float32)
        for number, value in zip(numbers.tolist(), values, strict=True):
            i = position[number]
            if value.ndim == 2:
                stored[i, : lengths[i]] = value[: lengths[i]]
            else:
                stored[i] = value
    assert stored is not None
    write_safetensors(path, array_entries({"logits": stored}), {})
    return stored.shape


def _refuse_huge(shape: tuple[int, ...]) -> None:
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size > _MOST_LOGIT_BYTES:
        raise ConfigError(
            f"--logits: {shape} in float32 is {size / 1e9:.0f} GB, more than the {_MOST_LOGIT_BYTES / 1e9:.0f} GB kept in memory",
            hint="Split the data file, or shorten --seq-len.",
        )
