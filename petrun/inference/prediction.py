"""Predict every row: class and scores, a number, generated text, or the loss of the row. Store the logits of all rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from petrun.console import progress
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import TOKENS
from petrun.errors import ConfigError
from petrun.evaluate.entities import are_marked, entities
from petrun.evaluate.row_formulas import probabilities
from petrun.evaluate.score import Scorer, logits
from petrun.inference.evaluator import generate_texts, open_generator
from petrun.inference.settings import InferenceSettings
from petrun.models.base import LoadedModel
from petrun.tensors import Array, array_entries, write_safetensors
from petrun.tensors.targets import is_scored
from petrun.typing import JsonObject

_MOST_LOGIT_BYTES = 8_000_000_000


def predictions(settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel) -> Iterator[JsonObject]:
    """Predict every row. Returns an object for each row, with its number in the data.

    classify: class and scores, or the number that a net with one output predicts; tokens: the tag of every word, and entities; instruct:
    text; lm: the loss.
    """
    if rows.task == "instruct":
        yield from _generated(settings, loaded)
    elif rows.task == "classify":
        yield from _classified(settings, rows, loaded)
    elif rows.task == TOKENS:
        yield from _tagged(settings, rows, loaded)
    else:
        yield from _scored(settings, rows, loaded)


def _classified(settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel) -> Iterator[JsonObject]:
    names = rows.labels or settings.labels
    found: dict[int, Array] = {}
    batches = settings.batches(rows, loaded)
    for numbers, values in logits(loaded.net, batches, loaded.inputs, progress("predict"), len(rows)):
        found.update(zip(numbers.tolist(), values, strict=True))
    for row in sorted(found):
        if len(found[row]) == 1:
            # One output is a number, not a class.
            yield {"row": row, "prediction": float(found[row][0])}
            continue
        share = probabilities(found[row])
        best = int(share.argmax())
        scores: list[float] = share.tolist()
        # A user's own net may have more outputs than the labels it was trained on.
        names = (*names, *map(str, range(len(names), len(scores)))) if names else ()
        yield {
            "row": row,
            "label": names[best] if names else best,
            "score": scores[best],
            "scores": dict(zip(names, scores, strict=True)) if names else scores,
        }


def _tagged(settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel) -> Iterator[JsonObject]:
    names, found = rows.labels or settings.labels, dict[int, Array]()
    batches = settings.batches(rows, loaded)
    for numbers, values in logits(loaded.net, batches, loaded.inputs, progress("predict"), len(rows)):
        found.update(zip(numbers.tolist(), values, strict=True))
    for example in (rows[i] for i in range(len(rows))):
        # Without targets, labels are the numbers of words. One that gives no token, or is cut off, has no tag.
        assert example.labels is not None
        at = np.flatnonzero(is_scored(example.labels))
        share = probabilities(found[example.row][at])
        best = share.argmax(axis=-1).tolist()
        tags: list[int | str] = [names[k] if names else k for k in best]
        item: JsonObject = {
            "row": example.row,
            "words": example.labels[at].tolist(),
            "tags": tags,
            "scores": share.max(axis=-1).tolist(),
        }
        if are_marked(names):
            item["entities"] = [
                {"type": kind, "start": item["words"][start], "end": item["words"][end - 1] + 1}
                for kind, start, end in entities([str(tag) for tag in tags])
            ]
        yield item


def _scored(settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel) -> Iterator[JsonObject]:
    scorer = Scorer(loaded.net, loaded.inputs, rows.task)
    scores = scorer(settings.batches(rows, loaded), progress("predict"), len(rows))
    for row, loss, count, hits in zip(scores.rows, scores.losses, scores.counts, scores.hits, strict=True):
        mean = float(loss) / int(count) if count else None
        yield {
            "row": int(row),
            "loss": mean,
            "perplexity": float(np.exp(min(mean, 700.0))) if mean is not None else None,
            "tokens": int(count),
            "token_accuracy": int(hits) / int(count) if count else None,
        }


def _generated(settings: InferenceSettings, loaded: LoadedModel) -> Iterator[JsonObject]:
    prompts = settings.rows("instruct", need_target=False, for_generation=True)
    generator = open_generator(loaded, settings.tokenizer, settings.batch_size)
    limit = settings.config.eval.max_new_tokens
    answers = generate_texts(
        generator, prompts, settings.tokenizer, limit, "generate", end_of_turn=settings.end_of_turn(prompts)
    )
    for i, answer in enumerate(answers):
        example = prompts[i]
        item: JsonObject = {"row": example.row, "prediction": answer}
        if example.reference is not None:
            item["reference"] = example.reference
        if example.other_references:
            item["other_references"] = list(example.other_references)
        yield item


def write_logits(path: Path, settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel) -> tuple[int, ...]:
    """Store the logits of all rows, in the data's order, as tensor `logits`, float32. Returns the shape.

    (B, C), or (B, T, V) with T the longest row and 0 after a shorter one. Raises ConfigError for more than 8 GB.
    """
    position = {int(row): i for i, row in enumerate(rows.per_row["row"])}
    lengths = rows.lengths
    longest = int(lengths.max())
    stored: Array | None = None
    batches = settings.batches(rows, loaded, order="file")
    for numbers, values in logits(loaded.net, batches, loaded.inputs, progress("logits"), len(rows)):
        if stored is None:
            shape = (len(rows), *((longest, values.shape[2]) if values.ndim == 3 else values.shape[1:]))
            _require_memory(shape)
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


def _require_memory(shape: tuple[int, ...]) -> None:
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size > _MOST_LOGIT_BYTES:
        raise ConfigError(
            f"--logits: {shape} in float32 is {size / 1e9:.0f} GB, more than the {_MOST_LOGIT_BYTES / 1e9:.0f} GB kept in memory",
            hint="Split the data file, or shorten --seq-len.",
        )
