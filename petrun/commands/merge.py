"""`petrun merge`: write base and deltas as one model. No net is built, and a part of one tensor is in memory at a time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from petrun import console
from petrun.checkpoint.merge import FLOATS, Merged
from petrun.commands import quantize
from petrun.config.commands.merge import MergeSettings
from petrun.config.commands.quantize import QuantizeSettings
from petrun.config.effect import require_effect
from petrun.config.sizes import size_in_bytes
from petrun.errors import ConfigError, PetrunError, did_you_mean
from petrun.inference.delta_opener import DeltaOpener, weighted_path
from petrun.inference.merging.deltas import fit_deltas, write_merged
from petrun.inference.merging.gguf_file import SUFFIX, require_gguf_file, write_gguf_file
from petrun.inference.merging.merge_proof import MergeProof
from petrun.models.factory import is_factory
from petrun.models.families import FAMILIES
from petrun.tensors.atomic import refuse_occupied
from petrun.tensors.output import existing_parent, remove_output


def run(settings: MergeSettings) -> None:
    """Merge, prove the merge where asked to, and report what was written. A merge that fails the proof is removed."""
    out = settings.out
    if not settings.deltas:
        raise ConfigError("--delta is missing: the delta to merge", hint="Example: --delta runs/lora-1")
    if out is None:
        raise ConfigError("--out is missing: where to write the merged model", hint="Example: --out ./merged")
    _check(settings)
    path = Path(out).expanduser()
    if settings.out_bits is None and path.suffix != SUFFIX:
        _merge(settings, path)
        return
    if settings.out_bits is None:
        require_gguf_file(DeltaOpener(settings).base, path)
    else:
        form = quantize.form_of("--out-bits", settings.out_bits)
        if path.suffix in (".safetensors", ".ckpt", SUFFIX):
            raise ConfigError(
                f"--out-bits {settings.out_bits}: codes are written into a folder", hint="Give --out a folder."
            )
        refuse_occupied(path)
    # Beside the result: a system's folder for temporary files may be too small for a model.
    with tempfile.TemporaryDirectory(dir=existing_parent(path), prefix=".merging-") as name:
        merged = Path(name) / "merged"
        _merge(settings, merged)
        if settings.out_bits is None:
            write_gguf_file(merged, path)
            return
        shard = settings.max_shard_size
        quantize.run(
            QuantizeSettings(base=str(merged), out=out, quant=form, family=settings.family, max_shard_size=shard)
        )


def _merge(settings: MergeSettings, path: Path) -> None:
    """Write the merged model as `path`, and prove it where asked to."""
    shard = size_in_bytes("--max-shard-size", settings.max_shard_size)
    began = time.perf_counter()
    if path.suffix in (".safetensors", ".ckpt"):
        require_effect(settings, ("max_shard_size",), f"on --out {settings.out}, which is one file")
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
            remove_output(path)
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
    console.tell(
        f"merged {len(merged.changed)} of {merged.tensors} tensors into {merged.path} "
        f"({merged.nbytes / 1e6:,.1f} MB) in {seconds:.1f} s; read back and verified, "
        f"digest {merged.digest[:16]}"
    )
    if merged.untied:
        console.print(
            "note: head and embedding differ in this delta: each has a matrix of its own (tie_word_embeddings: false)"
        )
