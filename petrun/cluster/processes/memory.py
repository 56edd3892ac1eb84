"""Find how much memory this process can still get."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the memory that this process may come to hold, what it holds already included; None where the system does not say.

    The least of what the machine has free, swap included, and what each control group (a container's, a job's) above the process leaves.
    """
    machine = _fields(Path("/proc/meminfo"))
    own = _fields(Path("/proc/self/status")).get("VmRSS", 0)
    if "MemAvailable" not in machine:
        return None
    limits = [machine["MemAvailable"] + machine.get("SwapFree", 0), *left_by_groups(_CGROUPS, _own_group())]
    return max(0, min(limits)) + own


def peak_bytes() -> int | None:
    """Return the most memory that this process has held so far; None where the system does not say."""
    return _fields(Path("/proc/self/status")).get("VmHWM")


def _fields(path: Path) -> dict[str, int]:
    """Read lines such as `VmRSS:  1024 kB` in bytes."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: int(count) * 1024 for name, count in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _own_group() -> str:
    """Return the path of this process's group in version 2 of control groups."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def left_by_groups(root: Path, group: str) -> Iterator[int]:
    """Yield what each group from `group` up to the root still allows; a file cache counts as free."""
    folder = root / group
    for place in (folder, *folder.parents):
        yield from _left(place / "memory.max", place / "memory.current", place / "memory.stat", "inactive_file")
        if place == root:
            break
    old = root / "memory"
    yield from _left(
        old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat", "total_inactive_file"
    )


def _left(limit: Path, used: Path, stat: Path, cache: str) -> Iterator[int]:
    try:
        most, now, text = limit.read_text().strip(), int(used.read_text()), stat.read_text()
    except (OSError, ValueError):
        return
    if most.isdigit():
        found = re.search(rf"^{cache} (\d+)$", text, re.MULTILINE)
        yield int(most) - now + (int(found[1]) if found else 0)
