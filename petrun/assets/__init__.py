"""The embedded default: a small pretrained base, its tokenizer, and the task that it is tuned on. Made by scripts/make_assets.py."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def base_folder() -> Path:
    """The embedded base, a Hugging Face folder."""
    return _HERE / "base"


def task_file(part: str) -> Path:
    """Rows of the embedded task: `part` is "train" or "eval"."""
    return _HERE / "task" / f"{part}.jsonl"


def default_recipe() -> Path:
    """The settings that fit the embedded task."""
    return _HERE / "default.yaml"
