"""Write the files of a command's results; check before any work whether they can be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from petrun.errors import OutputError
from petrun.tensors import atomic_file
from petrun.tensors.atomic import output_error, refuse_special

PROBE = ".petrun-"
"""Begins the names of files by which a host finds out whether it can write, and what it sees."""


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file under a temporary name, then rename it."""
    with atomic_file(path) as (file, _):
        # A path that is not valid text is written to JSON and YAML with escapes.
        file.write(text.encode("utf-8", "backslashreplace"))


def check_file(flag: str, out: str | None, inputs: Iterable[Path]) -> None:
    """Check before any work that a result can be written, and that it replaces nothing that the command reads.

    `inputs`: files and folders that it reads. Raises OutputError.
    """
    if out is None:
        return
    path = Path(out).expanduser()
    try:
        if path.is_dir():
            raise OutputError(f"{flag} {out} is a folder", hint="Give a file name.")
        if not path.parent.is_dir():
            what = "is a file, not a folder" if path.parent.exists() else "does not exist"
            raise OutputError(f"{flag} {out}: the folder {path.parent} {what}", hint="Create it, or choose another.")
        if path.exists():
            refuse_special(path)
            target = path.resolve()
            sources = {source.resolve() for source in inputs}
            if sources & {target, *target.parents}:
                raise OutputError(
                    f"{flag} {out}: would replace what this command reads, or what a training run left",
                    hint="Give another name; nothing was touched.",
                )
        require_writable(path.parent)
    except OSError as error:
        raise output_error(path, error) from error


def write_new(flag: str, out: str, text: str, force: bool, inputs: Iterable[Path]) -> Path:
    """Write a text file atomically; it replaces an existing one only with `force`. Raises OutputError."""
    path = Path(out).expanduser()
    if path.is_file() and not force:
        raise OutputError(f"{flag} {out}: exists", hint="Give another name, or --force to replace it.")
    check_file(flag, out, inputs)
    write_text(path, text)
    return path


def existing_parent(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def require_writable(folder: Path) -> None:
    """Raises OSError where no file can be made in `folder`: permission bits alone do not tell."""
    handle, name = tempfile.mkstemp(prefix=PROBE, dir=folder)
    os.close(handle)
    os.unlink(name)


def remove_output(path: Path) -> None:
    """Remove a file or a folder that a command wrote and that did not pass its check."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
