"""Collect the facts of one host before a job starts: versions, settings, files by content, disk, cards and their tools."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import mindspore

from petrun import __version__
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
_TOOL_SECONDS = 60.0


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
    home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH")
    if home and (file := Path(home) / "version.cfg").is_file():
        named = re.search(r"^toolkit\w*_version\s*=\s*\[?([^\]\n]+)", file.read_text("utf-8", "replace"), re.MULTILINE)
        found["CANN"] = named[1].strip() if named else "unknown"
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


def card_tools(devices: list[int], *, several_hosts: bool) -> list[tuple[str, bool, str]]:
    """Return (name, whether all is well, what it reports) of npu-smi, and with several hosts of the cards' network tool."""
    found = []
    smi = shutil.which("npu-smi")
    if smi is None:
        found.append(("npu-smi", True, "not on PATH"))
    else:
        code, output = _output([smi, "info"])
        health = re.findall(r"\|\s*(OK|Warning|Alarm|Critical|UNKNOWN)\s*\|", output)
        bad = [word for word in health if word != "OK" and word != "Warning"]
        text = f"{len(health)} cards, {health.count('OK')} OK" if code == 0 else f"exit code {code}: {_first(output)}"
        found.append(("npu-smi", code == 0 and not bad, text + (f", {', '.join(bad)}" if bad else "")))
    if several_hosts:
        found.append(_network(devices))
    return found


def _network(devices: list[int]) -> tuple[str, bool, str]:
    conf = Path("/etc/hccn.conf")
    found = f"/etc/hccn.conf {'found' if conf.is_file() else 'not here'}"
    tool = shutil.which("hccn_tool")
    if tool is None:
        return "hccn", True, f"{found}, hccn_tool not on PATH"
    links = {device: _output([tool, "-i", str(device), "-link", "-g"])[1] for device in devices}
    down = [device for device, output in links.items() if "UP" not in output.upper()]
    if down:
        return (
            "hccn",
            False,
            f"{found}; no link: " + "; ".join(f"card {device}: {_first(links[device])}" for device in down),
        )
    return "hccn", True, f"{found}; the links of cards {', '.join(map(str, devices))} are up"


def _output(command: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TOOL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "nothing was printed")


def visible_devices(environment: Mapping[str, str], cards: int) -> list[int]:
    """Return the numbers, as npu-smi counts them, of the first cards that this process may use."""
    given = [part.strip() for part in environment.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",")]
    return [int(part) for part in given if part.isdecimal()][:cards] or list(range(cards))
