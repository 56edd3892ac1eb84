"""Read and write the note that petrun puts beside the files of all ranks: the digest of each, and the metadata of the checkpoint.

With it, two exchanged files are detected whatever they hold, and a sharded petrun delta keeps its manifest. The note is a file of
its own because transform_checkpoints fails over a checkpoint with a string in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.errors import WeightsError
from petrun.tensors.atomic import atomic_file
from petrun.tensors.digest import content_digest, tensor_digest
from petrun.tensors.reader import TensorReader
from petrun.tensors.table import unreadable

NOTE = "petrun_shards.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Note:
    files: tuple[str, ...]
    """The file of every rank, in order, relative to the note's folder: rank_0/model.ckpt."""
    digests: tuple[str, ...]
    """The digest of each file's content; () where they are not known."""
    metadata: Mapping[str, str]
    """Metadata of the checkpoint: a delta's manifest."""


def write_note(folder: Path, note: Note) -> None:
    """Write the note into a folder. Raises OutputError."""
    content = {
        "format": FORMAT,
        "files": list(note.files),
        "digests": list(note.digests),
        "metadata": dict(note.metadata),
    }
    with atomic_file(folder / NOTE) as (file, _):
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def read_note(folder: Path) -> Note | None:
    """Return the note in a folder, or None. Raises WeightsError for one that cannot be read."""
    path = folder / NOTE
    try:
        if not path.is_file():
            return None
        raw = json.loads(path.read_text("utf-8"))
        if raw["format"] != FORMAT:
            raise WeightsError(
                f"{path}: was written by another petrun (format {raw['format']})", hint="Upgrade petrun."
            )
        note = Note(files=tuple(raw["files"]), digests=tuple(raw["digests"]), metadata=dict(raw["metadata"]))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: does not read", hint="The file is damaged: write the checkpoint again.") from error
    texts = (*note.files, *note.digests, *note.metadata, *note.metadata.values())
    if not all(isinstance(text, str) for text in texts) or len(note.digests) not in (0, len(note.files)):
        raise WeightsError(f"{path}: does not read", hint="The file is damaged: write the checkpoint again.")
    return note


def check_note(folder: Path, note: Note, readers: Sequence[TensorReader]) -> None:
    """Compare the files of all ranks, in order, with the note. Raises WeightsError where they are others, or were exchanged."""
    here = tuple(reader.path.relative_to(folder).as_posix() for reader in readers)
    if here != note.files:
        odd = next((pair for pair in zip(here, note.files, strict=False) if pair[0] != pair[1]), None)
        what = (
            f"{odd[0]} is there, {NOTE} names {odd[1]}"
            if odd
            else f"{NOTE} is of {len(note.files)} ranks, not {len(here)}"
        )
        raise WeightsError(
            f"{folder}: {what}",
            hint=f"Put the ranks' files back as they were written; for files of another origin remove {NOTE}.",
        )
    if not note.digests:
        return
    found = [file_digest(reader) for reader in readers]
    wrong = [rank for rank, digest in enumerate(found) if digest != note.digests[rank]]
    if wrong:
        rank = wrong[0]
        held = next((other for other, digest in enumerate(note.digests) if digest == found[rank]), None)
        raise WeightsError(
            f"{folder}: {here[rank]} holds what rank {held} must hold"
            if held is not None
            else f"{folder}: {here[rank]} does not hold what it was written with",
            hint="Put every rank's file back in its folder: their order is the order of the shards."
            if held is not None
            else "The file was changed or replaced: use the original.",
        )


def file_digest(reader: TensorReader) -> str:
    """Return the digest of all tensors of a file."""
    infos = [(name, reader.info(name)) for name in reader.names]
    return content_digest((name, info.dtype, info.shape, tensor_digest(reader, name)) for name, info in infos)
