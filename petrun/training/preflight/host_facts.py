"""Collect the facts of one host before a job starts: versions, settings, files by content, disk, cards and their tools."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import mindspore

from petrun import __version__
from petrun.cluster.card_tools import cann_version
from petrun.config.schema import RunConfig
from petrun.delta import find_method
from petrun.tensors.output import existing_parent
from petrun.typing import JsonObject

_WHOLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are read completely; of larger ones, which may be a base of many gigabytes, samples are read. The ranks compare
everything that they load once more."""
_SAMPLES, _SAMPLE_BYTES = 64, 64 * 1024
_MOST_FILES = 10_000
_FILES = (
    "data.path",
    "data.eval_path",
    "data.template",
    "model.base",
    "model.base_strategy",
    "model.config",
    "model.family",
    "init_delta",
    "delta_strategy",
)
"""Settings that may name a file or folder, which is compared by content: its path may differ on another host."""
_OF_A_HOST = ("out.dir",)


class DiskFacts(TypedDict):
    """Bytes on the disk of the run folder."""

    free: int
    needed: int
    place: str


class HostFacts(TypedDict):
    """Holds the facts of one host, JSON values only."""

    name: str
    error: str
    """Why the host cannot take part; the other facts are empty then."""
    versions: dict[str, str]
    settings: JsonObject
    files: dict[str, str]
    """Label -> digest, "" for a file that does not exist."""
    disk: DiskFacts
    cards: str
    tools: list[tuple[str, bool, str]]
    """(name, whether all is well, what it reports)."""


def empty_facts(error: str = "") -> HostFacts:
    """Return the facts of this host with nothing but its name, and its error."""
    return {
        "name": socket.gethostname(),
        "error": error,
        "versions": {},
        "settings": {},
        "files": {},
        "disk": {"free": 0, "needed": 0, "place": ""},
        "cards": "",
        "tools": [],
    }


def flat_settings(config: RunConfig) -> JsonObject:
    """Return every setting but those that name files: {"optim.lr": 0.001}. JSON values."""
    found: JsonObject = {}
    for section, content in config.model_dump(mode="json").items():
        leaves = content if isinstance(content, dict) else {"": content}
        found |= {f"{section}.{leaf}".rstrip("."): value for leaf, value in leaves.items()}
    return {key: value for key, value in found.items() if key not in (*_FILES, *_OF_A_HOST)}


def versions() -> dict[str, str]:
    """Return the versions that have to be the same on every host; of Python the first two numbers."""
    found = {
        "petrun": __version__,
        "MindSpore": mindspore.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }
    if (cann := cann_version(os.environ)) is not None:
        found["CANN"] = cann
    return found


def file_digests(config: RunConfig) -> dict[str, str]:
    """Return {"model.base: model.safetensors": digest} of every file that the settings name, "" for one that does not exist.

    Hidden files and *.md, which nothing reads, are left out. Raises OSError for a file that cannot be read.
    """
    found: dict[str, str] = {}
    for key in _FILES:
        section, _, leaf = key.rpartition(".")
        value = getattr(getattr(config, section) if section else config, leaf)
        for number, name in enumerate(value if isinstance(value, tuple) else (value,)):
            if name is not None:
                place = _file_of(name)
                label = f"{key}[{number}]" if isinstance(value, tuple) and len(value) > 1 else key
                # A value that is not a file, such as the name of a built-in template, has to be the same itself.
                found |= {label: f"name {name}"} if place is None else dict(_digests(label, place))
    return found


def _file_of(name: str) -> Path | None:
    """Return the file or folder that a setting's value names, without the name of a function or a slice after it."""
    for given in (name, name.rpartition(":")[0], name.rpartition("#")[0]):
        if given and (place := Path(given).expanduser()).exists():
            return place
    looks_like_path = os.sep in name or Path(name).suffix != ""
    return Path(name) if looks_like_path else None


def _digests(label: str, place: Path) -> Iterator[tuple[str, str]]:
    if not place.is_dir():
        yield label, file_digest(place) if place.exists() else ""
        return
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix.lower() != ".md")
    for path in files[:_MOST_FILES]:
        inner = path.relative_to(place)
        if not any(part.startswith(".") for part in inner.parts):
            yield f"{label}: {inner}", file_digest(path)


def file_digest(path: Path) -> str:
    """Return a digest of size and content; of a large file of its beginning, its end and samples between. Raises OSError."""
    size = path.stat().st_size
    found = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while block := file.read(1 << 20):
                found.update(block)
        else:
            for sample in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()


def disk(config: RunConfig, out: Path) -> DiskFacts:
    """Return the free bytes where the run folder will be, and how many the run needs at least. Raises OSError."""
    needed = 256 * 1024 * 1024
    if find_method(config.algo).trains == "all" and config.model.base is not None:
        base = Path(config.model.base).expanduser()
        files = (
            [base] if base.is_file() else [path for path in base.rglob("*") if path.suffix in (".safetensors", ".ckpt")]
        )
        # Weights and AdamW's two moments in each state that is kept, and the weights themselves.
        needed += sum(path.stat().st_size for path in files) * (3 * config.train.keep_states + 1)
    place = existing_parent(out)
    return {"free": shutil.disk_usage(place).free, "needed": needed, "place": str(place)}
