"""`petrun embed`: a vector for each row."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.commands.data import EmbedSettings
from petrun.curation.output import DROPPED, dropped_lines
from petrun.curation.parts import PARTS, PartReader, part_of
from petrun.curation.reading import STOP, RowFiles, UnreadableRow
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.sentences.encoder import open_sentence_encoder
from petrun.tensors import array_entries, atomic_file, write_safetensors
from petrun.tensors.output import check_file, write_text

_CHUNK_ROWS = 4096


def run(given: EmbedSettings) -> None:
    """Encode all rows, in the files' order. Raises ConfigError, DataError, ModelError, OutputError."""
    if given.encoder is None:
        raise ConfigError("--encoder is missing: a folder of sentence-transformers", hint="Example: --encoder ./labse")
    if given.part not in PARTS:
        raise ConfigError(f"--part {given.part}: no such part of a row", hint=did_you_mean(given.part, PARTS))
    if given.out is None or not given.out.endswith((".npy", ".safetensors")):
        raise ConfigError("--out must end in .npy or .safetensors", hint="Example: --out vectors.npy")
    reader = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, given.on_bad_row or STOP, columns=reader.columns)
    path, dropped = Path(given.out).expanduser(), Path(f"{given.out}.{DROPPED}").expanduser()
    for each in (path, dropped):
        check_file("--out", str(each), [*files.inputs, Path(given.encoder).expanduser()])
    encoder = open_sentence_encoder(given.encoder, given.flags, given.sets, given.batch_size)
    bad: list[UnreadableRow] = []
    texts = (part_of(reader(row), given.part) for row in files.rows(bad.append))
    found = []
    while chunk := list(islice(texts, _CHUNK_ROWS)):
        found.append(encoder.encode(chunk, console.progress("encode")))
    vectors = np.concatenate(found)
    if given.out.endswith(".npy"):
        with atomic_file(path) as (file, _):
            np.save(file, vectors)
    else:
        write_safetensors(path, array_entries({"vectors": vectors}), {"encoder": encoder.digest})
    console.tell(f"wrote {len(vectors):,} vectors of {vectors.shape[1]} numbers to {given.out}")
    if bad:
        # Vector i is that of the i-th line that could be read.
        write_text(dropped, dropped_lines(bad))
        console.print(f"left out {len(bad):,} lines that cannot be read, each in {dropped}: they have no vector")
