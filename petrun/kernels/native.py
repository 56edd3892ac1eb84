"""The C++ operators: compiled with g++ on first use, kept in the user's cache, described by `status`.

The folder's name is a digest of all that the machine code depends on: the sources, the compiler, its flags and the
processor's features. Two processes at once are safe: one builds under a lock, and a finished library appears by rename.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.kernels.device import on_ascend

# No -ffast-math: it would drop NaN, which must reach the loss, and make the process flush denormals.
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    # The library's threads outlive any dlclose.
    "-Wl,-z,nodelete",
)
COMPILERS = ("g++", "c++")
BUILD_SECONDS = 300


@dataclass(frozen=True)
class Status:
    """The implementation that the kernels use, and the reason."""

    fused: bool
    """True: the C++ operators, for float32. False: MindSpore's primitives."""
    reason: str
    """One line for a report."""
    library: Path | None = None
    threads: int = 1


class _State:
    """Findings of this process. One object, so that nothing is rebound at module level."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.found: Status | None = None
        self.primitives_only = False


_state = _State()


def use_cache(folder: Path) -> None:
    """Keep compiled libraries below `folder` instead of ~/.cache/petrun/kernels. Call it before a kernel is built."""
    _state.folder = folder
    _state.found = None


def status() -> Status:
    """Compile or load the operators if that has not happened yet, and say how it went. Never raises, never prints."""
    if on_ascend():
        return Status(False, "Ascend: MindSpore's own kernels")
    if _state.primitives_only:
        return Status(False, "primitives were asked for")
    if _state.found is None:
        _state.found = _prepare()
    return _state.found


def library() -> Path | None:
    """The shared library for kernels built now, or None: use primitives."""
    found = status()
    return found.library if found.fused else None


@contextmanager
def primitives_only() -> Iterator[None]:
    """Cells built inside use primitives: for comparing the two."""
    before, _state.primitives_only = _state.primitives_only, True
    try:
        yield
    finally:
        _state.primitives_only = before


def set_threads(threads: int) -> None:
    """Set the number of threads that an operator may use from now on; 0: the process's cores."""
    path = library()
    if path is not None and _state.found is not None:
        loaded = ctypes.CDLL(str(path))
        loaded.petrun_set_threads(threads)
        count = int(loaded.petrun_threads())
        _state.found = replace(_state.found, reason=_spell(count), threads=count)


def sources() -> list[Path]:
    """Headers and operators, in a fixed order."""
    here = Path(__file__).parent
    return sorted([*here.glob("*.h"), *here.glob("*.cpp")])


def _prepare() -> Status:
    if sys.platform != "linux":
        return Status(False, f"C++ operators need Linux, this is {sys.platform}: kernels run as slower primitives")
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return Status(False, f"no C++ compiler found ({' or '.join(COMPILERS)}): kernels run as slower primitives")
    try:
        path = _locked_build(compiler, _writable_folder() / _digest(compiler))
        loaded = ctypes.CDLL(str(path))
        threads = int(loaded.petrun_threads())
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        return Status(False, f"{compiler} failed ({last[0]}): kernels run as slower primitives")
    except (OSError, AttributeError, subprocess.TimeoutExpired) as error:
        return Status(False, f"the C++ kernels could not be built ({error}): kernels run as slower primitives")
    return Status(True, _spell(threads), path, threads)


def _spell(threads: int) -> str:
    return f"C++ operators, {threads} thread{'s' if threads > 1 else ''}"


def _writable_folder() -> Path:
    """Return the cache, or where that cannot be written, a folder that is removed when this process ends."""
    folder = _state.folder or Path.home() / ".cache" / "petrun" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="petrun-kernels-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def _digest(compiler: str) -> str:
    run = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=BUILD_SECONDS)
    parts = [run.stdout, " ".join(FLAGS), platform.machine(), _processor_features()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:20]


def _processor_features() -> str:
    """Return the first processor's flags as Linux lists them, which decide what -march=native enables."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _locked_build(compiler: str, folder: Path) -> Path:
    import fcntl  # This module can be imported on systems without it.

    library = folder / "petrun_kernels.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            unfinished = folder / f"unfinished-{os.getpid()}.so"
            units = [str(path) for path in sources() if path.suffix == ".cpp"]
            try:
                subprocess.run(
                    [compiler, *FLAGS, "-o", str(unfinished), *units],
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=BUILD_SECONDS,
                )
                os.replace(unfinished, library)
            finally:
                unfinished.unlink(missing_ok=True)
    return library
