"""Write files and folders atomically: they appear complete or not at all.

They are written under a hidden temporary name beside the target, flushed to the disk, then renamed. A crash, a full disk or Ctrl-C leaves
the target unchanged. Permissions are those of any new file (0666 and 0777 less the umask).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from petrun.errors import OutputError

_HINTS = {
    errno.ENOSPC: "Free some space, or choose a folder on another disk.",
    errno.EDQUOT: "The disk quota is used up: free some space, or choose a folder on another disk.",
    errno.EACCES: "Choose a folder you may write to, or change its permissions.",
    errno.EPERM: "Choose a folder you may write to, or change its permissions.",
    errno.EROFS: "The disk is mounted read-only: choose a folder on another one.",
    errno.ENOENT: "The folder does not exist: create it, or choose another.",
    errno.ENOTDIR: "A part of the path is a file: choose another path.",
    errno.EEXIST: "A part of the path is a file: choose another path.",
    errno.EISDIR: "A folder stands at this path: choose another name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EFBIG: "The disk allows no file this large: write shards, or choose another disk.",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Convert the operating system's error about a file into one that says what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    hint = _HINTS.get(error.errno or 0, "Check the disk and the folder's permissions, or choose another path.")
    return OutputError(f"{path}: cannot be written: {reason}", hint=hint)


def _temporary(path: Path) -> Path:
    # The prefix is shortened so that a name near the file system's limit still has a temporary one.
    return path.with_name(f".{path.name[:180]}.{secrets.token_hex(6)}.tmp")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Not every file system can sync a folder; the file's own bytes are synced already."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield (file open for writing, its temporary path); on success it becomes `path`, replacing a file of
    that name.

    Checks before the rename (see `flush`) belong inside the block.
    Raises OutputError that names the file, the reason and what to do; no file is left then.
    """
    path = Path(path)
    if path.is_dir():
        raise output_error(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    refuse_special(path)
    if path.is_symlink():
        # The rename would put a file in the link's place.
        path = path.resolve()
    temporary = _temporary(path)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            yield file, temporary
            flush(file)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        _discard(temporary)


def refuse_special(path: Path) -> None:
    """Raises OutputError for a device or a pipe: the rename would put a file in its place (/dev/null, as root)."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutputError(f"{path}: is not a file but a device or a pipe", hint="Give the name of a file.")


def flush(file: BinaryIO) -> None:
    """Bring everything written so far onto the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it becomes `path`, which must not exist or be empty.

    Raises OutputError as `atomic_file` does, and for a folder that holds something.
    """
    path = Path(path)
    refuse_occupied(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        _sync_folder(temporary)
        if path.is_dir():
            path.rmdir()
        os.rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        _discard(temporary)


def refuse_occupied(path: Path) -> None:
    """Raises OutputError where `path` is a file, or a folder that holds something."""
    try:
        if path.is_dir() and not any(path.iterdir()):
            return
        occupied = path.exists() or path.is_symlink()
    except OSError as error:
        raise output_error(path, error) from error
    if occupied:
        raise OutputError(f"{path}: exists and is not an empty folder", hint="Choose another name, or remove it first.")


def _discard(temporary: Path) -> None:
    """Remove the files of a failure; after a success nothing has this name any more."""
    with suppress(OSError):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
