"""Examine disk, memory, threads, the ports and the programs that ranks need."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from petrun.cluster.doctor.finding import Finding, Verdict
from petrun.cluster.ports import LOCAL, check_port
from petrun.cluster.processes.memory import available_bytes
from petrun.cluster.ranks import DEFAULT_PORT, cores_here
from petrun.console import bytes_text
from petrun.errors import SetupError
from petrun.tensors.output import existing_parent, require_writable

_LITTLE, _FEW = 256 * 2**20, 2**30
_SHARED_MEMORY = 2**30


def disk(name: str, folder: Path, what: str) -> Finding:
    """Return whether a folder can be written, and has room. `what`: what petrun writes there."""
    place = existing_parent(folder)
    try:
        require_writable(place)
        free = shutil.disk_usage(place).free
    except OSError as error:
        text = f"{folder}: cannot be written: {error.strerror}; {what} goes there"
        return Finding(name=name, verdict="blocks", text=text, mend=f"choose another folder, or: chmod u+w {place}")
    text = f"{bytes_text(free)} free under {place}, for {what}"
    verdict: Verdict = "blocks" if free < _LITTLE else "note" if free < _FEW else "ok"
    return Finding(name=name, verdict=verdict, text=text, mend="" if verdict == "ok" else f"du -sh {place}/*")


def memory() -> Finding:
    """Return the memory that a run may take."""
    free = available_bytes()
    if free is None:
        return Finding(name="memory", verdict="note", text="the system does not say how much is free")
    # Python with MindSpore takes 0.6 GiB before the model.
    verdict: Verdict = "note" if free < 2 * 2**30 else "ok"
    mend = "petrun plan --fit SIZE proposes settings that fit" if verdict == "note" else ""
    return Finding(name="memory", verdict=verdict, text=f"{bytes_text(free)} free", mend=mend)


def threads(environment: Mapping[str, str]) -> Finding:
    """Return whether the number of threads goes with the processor."""
    cores, given = cores_here(), environment.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > cores:
        text = f"OMP_NUM_THREADS is {given}, and this process may use {cores} cores: threads wait for each other"
        return Finding(name="threads", verdict="note", text=text, mend=f"export OMP_NUM_THREADS={cores}")
    return Finding(
        name="threads", verdict="ok", text=f"{cores} cores" + (f", OMP_NUM_THREADS {given}" if given else "")
    )


def ports() -> Finding:
    """Return whether the port is free at which several hosts meet."""
    try:
        check_port(LOCAL, DEFAULT_PORT)
    except SetupError as error:
        text = f"{error.message}; a job of several hosts meets there"
        return Finding(
            name="ports", verdict="note", text=text, mend="petrun train --master-port PORT, the same on every host"
        )
    return Finding(name="ports", verdict="ok", text=f"{DEFAULT_PORT} is free for a job of several hosts")


def programs() -> Iterator[Finding]:
    """Yield which programs are here that petrun may call."""
    compiler = shutil.which("g++")
    mend = "apt-get install g++"
    text = compiler or "is not here: operators for the CPU cannot be built, nor the stub of a rehearsal"
    yield Finding(name="g++", verdict="ok" if compiler else "note", text=text, mend="" if compiler else mend)
    beside = Path(sys.executable).parent / "msrun"
    place = str(beside) if beside.is_file() else shutil.which("msrun")
    text = place or "is not here; petrun train --cards starts ranks without it"
    yield Finding(name="msrun", verdict="ok", text=text)


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:
    """Return whether ranks of one host have room to talk."""
    if not place.is_dir():
        return Finding(name="shm", verdict="ok", text=f"{place} is not here")
    total = shutil.disk_usage(place).total
    if total < _SHARED_MEMORY:
        text = f"{place} has {bytes_text(total)}, too little for the ranks of several cards"
        return Finding(name="shm", verdict="note", text=text, mend="in a container: docker run --shm-size=16g")
    return Finding(name="shm", verdict="ok", text=f"{bytes_text(total)} in {place}")


def machine(cache: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield all findings about the machine."""
    yield disk("disk", Path(os.getcwd()), "run folders")
    yield disk("cache", cache, "tokenised rows and compiled graphs")
    yield memory()
    yield threads(environment)
    yield shared_memory()
    yield ports()
    yield from programs()
