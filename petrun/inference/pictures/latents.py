"""Computes what the U-Net reads of rows: latents of the pictures, and states of the captions.

Each is computed once, and kept under the user's cache folder by content: of the picture's file or the caption's tokens, and of the net.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from mindspore import Tensor

from petrun.config.load import cache_folder
from petrun.config.schema import RunConfig
from petrun.console import progress
from petrun.data.examples.example_set import LATENTS, STATES, ExampleSet
from petrun.data.pictures import pixels_of
from petrun.errors import OutputError
from petrun.inference.pictures.captions import text_states
from petrun.inference.pictures.rows import CAPTION_IDS, DIGESTS, pipeline_of, side_of
from petrun.models import autoencoder_kl, clip_text
from petrun.models.base import Family
from petrun.models.pipeline import AUTOENCODER, TEXT_ENCODER, load_part, part_digest
from petrun.parallel.context import Device, eager
from petrun.tensors import Array
from petrun.tensors.atomic import atomic_file
from petrun.tensors.bounded_folder import remove_oldest
from petrun.typing import Cell

_FORM = 1
"""Raised whenever the same content would give other numbers than before; part of the cache's keys."""
_MOST_BYTES = 8 * 2**30


@dataclass
class _Net:
    """A net of the pipeline that is loaded when something is not in the cache."""

    folder: Path
    family: Family
    cache: Path | None
    device: str

    @cached_property
    def digest(self) -> str:
        return part_digest(self.folder, self.family)

    @cached_property
    def cell(self) -> Cell:
        return load_part(self.folder, self.family).net

    def remembered(self, of: bytes, how: str, compute: Callable[[Cell], Array]) -> Array:
        """Return what the net computes of some content, float32, from the cache where it is there."""
        if self.cache is None:
            return compute(self.cell)
        text = f"{_FORM} {self.digest} {self.device} {how} ".encode()
        path = self.cache / f"{hashlib.sha256(text + of).hexdigest()}.npy"
        with suppress(OSError, ValueError, EOFError):
            kept: Array = np.load(path, allow_pickle=False)
            return kept
        found = compute(self.cell)
        # Like every cache, it may not stop a run.
        with suppress(OSError, OutputError):
            self.cache.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as (file, _):
                np.save(file, found)
        return found


def with_latents(config: RunConfig, rows: ExampleSet, device: Device) -> ExampleSet:
    """Return the rows with latents (n, 2 or 4, Z, h, w) float32, mean and deviation, then those of the mirror image where the run draws
    flips; and with the states of the captions (n, T, S) float32. Raises DataError for a picture that cannot be read.
    """
    pipeline = pipeline_of(config)
    side = side_of(config, pipeline)
    cache = cache_folder() / "latents" if config.data.cache else None
    encoder = _Net(pipeline.folder / AUTOENCODER, autoencoder_kl.FAMILY, cache, device.target)
    texts = _Net(pipeline.folder / TEXT_ENCODER, clip_text.FAMILY, cache, device.target)
    with eager():
        arrays = {
            LATENTS: _each(rows, "latents", lambda i: _latents(encoder, rows, i, side, config.image.flip)),
            STATES: _each(rows, "captions", lambda i: _states(texts, rows.arrays[CAPTION_IDS][i : i + 1])),
        }
    if cache is not None:
        remove_oldest(cache, "*.npy", _MOST_BYTES, cache)
    return replace(rows, arrays={**rows.arrays, **arrays})


def _each(rows: ExampleSet, label: str, compute: Callable[[int], Array]) -> Array:
    """Compute a value for every row, with a progress bar."""
    bar, found = progress(label), []
    for i in range(len(rows)):
        found.append(compute(i))
        bar(i + 1, len(rows))
    return np.stack(found)


def _latents(net: _Net, rows: ExampleSet, index: int, side: int, flip: bool) -> Array:
    path, digest = Path(rows.files[index]), rows.arrays[DIGESTS][index].tobytes()

    def encode(mirrored: bool) -> Callable[[Cell], Array]:
        def of(cell: Cell) -> Array:
            pixels = pixels_of(path, side)
            seen = np.ascontiguousarray(pixels[:, :, ::-1] if mirrored else pixels)
            return np.concatenate([half.asnumpy() for half in cell(Tensor(seen[None]))])

        return of

    found = [
        net.remembered(digest, f"{side}{' mirrored' * mirrored}", encode(mirrored))
        for mirrored in ((False, True) if flip else (False,))
    ]
    return np.concatenate(found)


def _states(net: _Net, ids: Array) -> Array:
    return net.remembered(ids.tobytes(), "states", lambda cell: text_states(cell, ids)[0])
