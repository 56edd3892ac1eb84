"""Keep the files of a cache folder within a limit of bytes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def remove_oldest(folder: Path, pattern: str, limit_bytes: int, keep: Path) -> None:
    """Remove the files that match `pattern`, the one whose time is oldest first, until the rest is within the limit. `keep` stays."""
    found = []
    for path in folder.glob(pattern):
        # Another process may remove it at the same time.
        with suppress(OSError):
            stat = path.stat()
            found.append((path == keep, stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, _, size, _ in found)
    for kept, _, size, path in sorted(found):
        if total <= limit_bytes or kept:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
