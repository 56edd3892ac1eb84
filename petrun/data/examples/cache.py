"""Cache tokenised rows on disk, keyed by content: files, tokenizer, settings, data version.

Each key has one .npz, whose arrays are mapped into memory: a start reads the file once to compare its checksums, and holds no copy. A
damaged or foreign file counts as missing and is written again. A cache that cannot be written does not stop a run.
"""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from petrun.data.examples.example_set import ExampleSet, Stats
from petrun.data.examples.mapped_npz import map_npz, write_npz
from petrun.data.examples.texts import Texts
from petrun.data.formats.npz import DAMAGED_NPZ
from petrun.data.formats.records import Array
from petrun.data.templates.template import Template
from petrun.errors import OutputError
from petrun.tensors.atomic import atomic_file
from petrun.tensors.bounded_folder import remove_oldest
from petrun.typing import JsonObject

# The last four: an intact archive that holds something else.
_DAMAGE = (*DAMAGED_NPZ, struct.error, ValueError, TypeError, KeyError, AttributeError)
_LARGEST_BYTES = 4 * 2**30
_LAYOUT = 2
"""Raised whenever a file holds the same rows in another way. The key stays, because runs to be resumed compare it."""
_STORED = (
    "task", "kind", "labels", "num_labels", "files", "columns", "unused_columns", "unused_keys", "formats", "digest",
    "notes", "skipped", "other_references", "unknown_texts",
)  # fmt: skip
_STORED_NAMES = {"unused_columns": "unread", "unused_keys": "unread_keys", "unknown_texts": "unknown"}
"""Fields that have another name in the file."""


def load_cached(folder: Path | None, key: str) -> ExampleSet | None:
    """Load the examples stored under `key`; None where there are none."""
    if folder is None or not (folder / f"{key}.npz").is_file():
        return None
    try:
        arrays = map_npz(folder / f"{key}.npz")
        meta = json.loads(arrays.pop("meta").tobytes())
        if meta["layout"] != _LAYOUT:
            return None
        examples = _rebuild(meta, arrays)
    except _DAMAGE:
        return None
    return examples if examples.digest == key else None


def _rebuild(meta: JsonObject, arrays: dict[str, Array]) -> ExampleSet:
    grouped: dict[str, dict[str, Array]] = {"flat": {}, "per_row": {}, "texts": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if rest:
            grouped[group][rest] = array
    offsets = arrays["offsets"]
    consistent = all(len(a) == offsets[-1] for a in grouped["flat"].values()) and all(
        len(a) == len(offsets) - 1 for a in grouped["per_row"].values()
    )
    if not consistent:
        raise ValueError("arrays do not fit together")
    references = Texts(**grouped["texts"]) if grouped["texts"] else ()
    template = meta["template"]
    return ExampleSet(
        task=meta["task"],
        kind=meta["kind"],
        offsets=offsets,
        flat=grouped["flat"],
        per_row=grouped["per_row"],
        references=references,
        labels=tuple(meta["labels"]),
        num_labels=meta["num_labels"],
        files=tuple(meta["files"]),
        columns=tuple(meta["columns"]),
        unused_columns=tuple(meta["unread"]),
        unused_keys=tuple(meta["unread_keys"]),
        unknown_texts=tuple(meta["unknown"]),
        formats=tuple(meta["formats"]),
        stats=Stats(**meta["stats"]),
        template=Template(**template) if template else None,
        digest=meta["digest"],
        notes=tuple(meta["notes"]),
        skipped=tuple(meta["skipped"]),
        other_references=tuple(map(tuple, meta["other_references"])),
    )


def store_cached(folder: Path | None, key: str, examples: ExampleSet) -> None:
    """Write an entry atomically; then remove those that were written first, so that the folder stays below 4 GiB."""
    if folder is None:
        return
    meta = {_STORED_NAMES.get(name, name): getattr(examples, name) for name in _STORED}
    meta["layout"] = _LAYOUT
    meta["stats"] = asdict(examples.stats)
    meta["template"] = asdict(examples.template) if examples.template else None
    arrays = {f"flat/{name}": array for name, array in examples.flat.items()} | {
        f"per_row/{name}": array for name, array in examples.per_row.items()
    }
    if examples.references:
        texts = examples.references if isinstance(examples.references, Texts) else Texts.of(examples.references)
        arrays |= {"texts/content": texts.content, "texts/sizes": texts.sizes}
    packed = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    path = folder / f"{key}.npz"
    # Like every cache, it may not stop a run: neither a folder that cannot be made nor a full disk does.
    with suppress(OSError, OutputError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as (file, _):
            write_npz(file, {"meta": packed, "offsets": examples.offsets, **arrays})
        remove_oldest(folder, "*.npz", _LARGEST_BYTES, path)
