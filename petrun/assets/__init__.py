"""Give the paths of the embedded default: a small pretrained base, its tokenizer, and its task. Made by scripts/make_assets.py."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def base_folder() -> Path:
    """Return the embedded base, a Hugging Face folder."""
    return _HERE / "base"


def task_file(part: str) -> Path:
    """Return the rows of the embedded task: `part` is "train" or "eval"."""
    return _HERE / "task" / f"{part}.jsonl"


def default_recipe() -> Path:
    """Return the recipe with the settings for the embedded task."""
    return _HERE / "default.yaml"
