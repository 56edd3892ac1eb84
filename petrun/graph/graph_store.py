"""Compiled graphs as files of a folder, each named by its key, with a digest of all that it holds.

A file is one line of JSON, {"key", "parameters", "bytes", "sha256"}, and the graph as MindSpore wrote it. It appears whole, by rename, so
that several processes may write and read the same folder. One that was read is touched; the files that were not for longest go where all
together are larger than the limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from petrun.tensors.atomic import atomic_file
from petrun.tensors.bounded_folder import remove_oldest
from petrun.typing import JsonObject

LIMIT_BYTES = 2 * 1024**3
SUFFIX = ".graph"
_LONGEST_HEADER = 16 * 1024**2
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class StoredGraph:
    """A compiled graph, and the names of the parameters that it takes as inputs."""

    content: bytes
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class GraphStore:
    """The compiled graphs of a folder, which need not exist."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def read(self, key: str) -> StoredGraph | None:
        """Return the graph of this key; None where there is none, or it is not whole and unchanged: that file is removed."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                found = _parse(file.readline(_LONGEST_HEADER), file.read(), key)
        except OSError:
            return None
        if found is None:
            self.remove(key)
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def write(self, key: str, content: bytes, parameters: Sequence[str]) -> None:
        """Keep a graph, and remove those that were not read for longest. Raises OutputError, such as for a full disk."""
        if len(content) > self.limit_bytes:
            return
        header = {
            "key": key,
            "parameters": list(parameters),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        with atomic_file(self.path(key)) as (file, _):
            file.write(json.dumps(header).encode() + b"\n")
            file.write(content)
        remove_oldest(self.folder, f"*{SUFFIX}", self.limit_bytes, self.path(key))

    def remove(self, key: str) -> None:
        """Remove the graph of this key, if there is one."""
        with suppress(OSError):
            self.path(key).unlink()

    def clean(self) -> None:
        """Remove what processes that were killed left half done: hidden files and folders a day old."""
        for path in self.folder.glob(".*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _parse(header: bytes, content: bytes, key: str) -> StoredGraph | None:
    """Return the graph of a file; None where it is another key's, cut short or changed."""
    try:
        said = json.loads(header)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("key") != key or said.get("bytes") != len(content):
        return None
    if said.get("sha256") != hashlib.sha256(content).hexdigest():
        return None
    names = _names(said)
    return None if names is None else StoredGraph(content=content, parameters=names)


def _names(said: JsonObject) -> tuple[str, ...] | None:
    names = said.get("parameters")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
