"""Sum the losses of every row of a set, batch by batch, so that a pass that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.console import progress
from petrun.data.batches.buckets import plan_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.evaluate.score import Scorer
from petrun.inference.interrupted_pass import read_done
from petrun.inference.rows import scoring_batches
from petrun.inference.settings import InferenceSettings
from petrun.models.base import LoadedModel
from petrun.tensors import Array

_BATCHES = 20
"""Batches between two entries of the file of what is done."""


def token_losses(
    settings: InferenceSettings,
    rows: ExampleSet,
    loaded: LoadedModel,
    done: Path,
    delta: Delta | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Array, Array]:
    """Score the labels of each row with the net as it is.

    Inputs: `done`, file of what is done, which the next call with the same rows, base and delta goes on from; the caller removes it.
    Returns: (n,) float64 sums of losses; (n,) int64 numbers of scored tokens.
    Raises: DataError, WeightsError as Scorer.
    """
    plan = plan_batches(
        rows.batch_lengths,
        batch_size=settings.batch_size,
        seq_len=settings.config.data.seq_len,
        buckets=settings.config.data.buckets,
        order="length",
    ).epoch(0)
    losses, counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    key = _fingerprint(settings, rows, loaded, delta)
    start = _read_done(done, key, losses, counts)
    if start and tell is not None:
        tell(f"{start} of {len(plan)} batches were scored before, as {done.name} says")
    scorer = Scorer(loaded.net, loaded.inputs, rows.task)
    bar = progress("score", "batch")
    batches = scoring_batches(rows, plan, loaded.inputs, loaded.pad_token_id, start)
    with done.open("a", encoding="utf-8") as file:
        if not start:
            file.write(json.dumps({"fingerprint": key}) + "\n")
        while part := list(islice(batches, _BATCHES)):
            found = scorer.outputs(part)
            losses[found.rows], counts[found.rows] = found.values[:, 0], found.values[:, 1]
            start += len(part)
            entry = {"batches": start, "rows": found.rows.tolist(), "values": found.values[:, :2].tolist()}
            file.write(json.dumps(entry) + "\n")
            file.flush()
            bar(start, len(plan))
    return losses, counts


def _fingerprint(settings: InferenceSettings, rows: ExampleSet, loaded: LoadedModel, delta: Delta | None) -> str:
    """Return what the scores depend on, as one digest."""
    digest = hashlib.sha256()
    for values in (rows.offsets, rows.flat["input_ids"], rows.flat["labels"]):
        digest.update(np.ascontiguousarray(values).tobytes())
    run = (
        loaded.base_digest,
        delta.digest if delta is not None else "",
        settings.device.compute_dtype,
        settings.batch_size,
    )
    digest.update(repr((run, settings.config.data.seq_len, settings.config.data.buckets)).encode())
    return digest.hexdigest()


def _read_done(path: Path, key: str, losses: Array, counts: Array) -> int:
    """Take over what an interrupted pass has scored. Returns the number of batches; 0, and no file, where the file is of another pass."""
    entries = read_done(path, key)
    for entry in entries:
        values = np.array(entry["values"], np.float64).reshape(-1, 2)
        losses[entry["rows"]], counts[entry["rows"]] = values[:, 0], values[:, 1]
    return int(entries[-1]["batches"]) if entries else 0
