"""Parse --mount, the folders that a job's container sees, and find the mount of a path."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from petrun.errors import ConfigError

WORKDIR = "/work"
"""The working directory of the image that Dockerfile.ascend builds."""
_CLAIM = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder of the host, or a claim, in the container."""

    source: str
    target: str
    read_only: bool = False
    claim: bool = False
    """source is the name of a PersistentVolumeClaim."""
    in_image: bool = False
    """Whether the image holds the path, so that nothing is mounted."""

    def is_folder(self, path_there: PurePosixPath) -> bool:
        """Return whether `path_there` lies in this mount and the mount is a folder of the host."""
        return not (self.claim or self.in_image) and path_there.is_relative_to(self.target)


def parse_mount(text: str) -> Mount:
    """Parse `/data:/data`, `/data:/data:ro`, `pvc/NAME:/work` or `image:/models`. Raises ConfigError."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if source == "image" and not mode and is_clean_path(target) and target != "/":
        return Mount(source=source, target=target.rstrip("/"), read_only=True, in_image=True)
    claim = source.startswith("pvc/")
    source = source.removeprefix("pvc/")
    good_source = _CLAIM.fullmatch(source) is not None if claim else is_clean_path(source)
    if not good_source or not is_clean_path(target) or target == "/" or mode not in ("", "ro", "rw"):
        raise ConfigError(
            f"--mount {text!r}: must be /FOLDER:/PATH, /FOLDER:/PATH:ro, pvc/CLAIM:/PATH or image:/PATH",
            hint="Paths are absolute, and hold no .. and no colon.",
        )
    return Mount(source=source, target=target.rstrip("/"), read_only=mode == "ro", claim=claim)


def is_clean_path(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and path.isprintable() and ":" not in path


def _in_pod(path: str, workdir: str) -> PurePosixPath:
    """Resolve a path of the command line in the container; `..` may leave a mount."""
    return PurePosixPath(posixpath.normpath(PurePosixPath(workdir) / path))


def lies_in(path: str, mounts: Sequence[Mount], workdir: str, *, written: bool) -> bool:
    """Return whether a path of the job lies in a mount; with `written`, in one that can be written."""
    path_there = _in_pod(path, workdir)
    return any(path_there.is_relative_to(mount.target) for mount in mounts if not (written and mount.read_only))


def on_this_machine(path: str, mounts: Sequence[Mount], workdir: str) -> Path | None:
    """Return a path of the job on this machine: in the host's folder of its mount, or the same path. None: it is not here."""
    path_there = _in_pod(path, workdir)
    folders = [Path(m.source) / path_there.relative_to(m.target) for m in mounts if m.is_folder(path_there)]
    return next((one for one in (*folders, Path(path).expanduser()) if one.exists()), None)
