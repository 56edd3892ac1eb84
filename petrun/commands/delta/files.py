"""Last steps of every `petrun delta` command that writes a delta: check the path, save with a manifest, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petrun import console
from petrun.algebra.derived import derived
from petrun.algebra.sums import NewDelta
from petrun.checkpoint.delta import Delta, save_delta
from petrun.errors import ConfigError, OutputError

_LISTED = 24


def check_out(out: str | None, suffixes: Sequence[str] = (".ckpt", ".safetensors")) -> Path:
    """Return the path of a delta to be written. Raises ConfigError for none, OutputError for one that exists or has another ending."""
    if out is None:
        raise ConfigError("--out is missing: where to write the delta", hint="Example: --out sum.ckpt")
    path = Path(out).expanduser()
    if path.suffix not in suffixes:
        raise OutputError(f"{out}: a delta file ends in {' or '.join(suffixes)}", hint="Example: --out sum.ckpt")
    if path.exists():
        raise OutputError(f"{out}: exists", hint="Choose another --out, or remove it first.")
    return path


def write(out: Path, sources: Sequence[Delta], made: NewDelta, how: Sequence[str]) -> None:
    """Save a delta made from others, and print what it is and its error."""
    manifest, notes = derived(sources, made, how)
    written = save_delta(out, made.tensors, manifest)
    report(made)
    for note in (*made.notes, *notes):
        console.print(f"note: {note}")
    console.tell(f"wrote {out}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")


def report(made: NewDelta) -> None:
    """Print rank, norm and relative error of every layer, and of all."""
    if not made.layers:
        return
    width = max(len(layer.path) for layer in made.layers)
    for layer in made.layers[:_LISTED]:
        console.tell(
            f"  {layer.path.ljust(width)}  rank {layer.rank:<4d} norm {layer.norm:<10.4g} error {layer.relative:.3e}"
        )
    if len(made.layers) > _LISTED:
        console.tell(f"  ... and {len(made.layers) - _LISTED} more layers")
    ranks = sorted({layer.rank for layer in made.layers})
    spelt = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    console.tell(f"{len(made.layers)} layers, rank {spelt}; relative error (Frobenius) {made.relative:.3e} in all")
