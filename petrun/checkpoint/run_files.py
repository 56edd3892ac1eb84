"""Names of the files that a training run leaves beside its delta."""

from __future__ import annotations

from pathlib import Path

RESULTS = "results.json"


RUN_YAML = "run.yaml"


LOG = "log.jsonl"


def is_finished(folder: Path) -> bool:
    """Return whether the run of a folder came to its end: its results are the last that it writes."""
    return (folder / RESULTS).is_file()


def run_files(delta: Path) -> tuple[Path, ...]:
    """Return the names of the files that a training run leaves, its delta among them."""
    names = (RUN_YAML, LOG, RESULTS, "best.ckpt", "best.safetensors")
    return (delta, *(delta.parent / name for name in names))
