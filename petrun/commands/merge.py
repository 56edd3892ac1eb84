"""`petrun merge`: write base and deltas as one model. No net is built, and a part of one tensor is in memory at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from petrun import console
from petrun.checkpoint.merge import FLOATS, Merged
from petrun.config.commands.merge import MergeSettings
from petrun.config.effect import require_effect
from petrun.config.sizes import size_in_bytes
from petrun.errors import ConfigError, PetrunError, did_you_mean
from petrun.inference.delta_opener import DeltaOpener, weighted_path
from petrun.inference.merging.deltas import fit_deltas, write_merged
from petrun.inference.merging.merge_proof import MergeProof
from petrun.models.factory import is_factory
from petrun.models.families import FAMILIES


def run(settings: MergeSettings) -> None:
    """Merge, prove the merge where asked to, and report what was written. A merge that fails the proof is removed."""
    out = settings.out
    if not settings.deltas:
        raise ConfigError("--delta is missing: the delta to merge", hint="Example: --delta runs/lora-1")
    if out is None:
        raise ConfigError("--out is missing: where to write the merged model", hint="Example: --out ./merged")
    _check(settings)
    shard = size_in_bytes("--max-shard-size", settings.max_shard_size)
    began = time.perf_counter()
    path = Path(out).expanduser()
    if path.suffix in (".safetensors", ".ckpt"):
        require_effect(settings, ("max_shard_size",), f"on --out {out}, which is one file")
    opener = DeltaOpener(settings)
    fitted = fit_deltas([weighted_path(text) for text in settings.deltas], opener)
    _print_notes(fitted.notes)
    merged, notes = write_merged(fitted.delta, opener.base, path, settings.dtype, shard)
    _print_notes(notes)
    _report(merged, time.perf_counter() - began)
    if settings.prove:
        try:
            MergeProof(opener.base, settings.tolerance, settings.probe).check(fitted.delta, path)
        except PetrunError:
            discard(path)
            console.print(f"removed {path}")
            raise


def _check(settings: MergeSettings) -> None:
    if settings.dtype is not None and settings.dtype not in FLOATS:
        raise ConfigError(f"--dtype {settings.dtype} is unknown. {did_you_mean(settings.dtype, FLOATS)}")
    if settings.prove and is_factory(settings.family):
        raise ConfigError(
            f"--prove: what {settings.family} takes as input is not known",
            hint=f"Built-in families: {', '.join(FAMILIES)}.",
        )
    if not settings.prove and (settings.tolerance is not None or settings.probe is not None):
        raise ConfigError("--tolerance and --probe are for --prove", hint="Leave them out, or add --prove.")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}")


def _report(merged: Merged, seconds: float) -> None:
    console.print(
        f"merged {len(merged.changed)} of {merged.tensors} tensors into {merged.path} "
        f"({merged.nbytes / 1e6:,.1f} MB) in {seconds:.1f} s; read back and verified, "
        f"digest {merged.digest[:16]}"
    )
    if merged.untied:
        console.print(
            "note: head and embedding differ in this delta: each has a matrix of its own (tie_word_embeddings: false)"
        )


def discard(path: Path) -> None:
    """Remove what a merge wrote."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
