"""Values that the shell completes in several commands. The shell calls these, so they import neither MindSpore nor pydantic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def run_choices() -> Iterator[str]:
    """Folders of runs below runs/, the newest first."""
    # A folder that cannot be read has no runs to offer.
    found = [path.parent for path in Path("runs").glob("*/run.yaml")] if Path("runs").is_dir() else []
    return (str(path) for path in sorted(found, key=lambda path: -path.stat().st_mtime))
