"""What every `petrun delta` command does first and last: open deltas of any tool, and write one with a true manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from petrun import console
from petrun.algebra.sums import Made
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import Delta, read_delta, save_delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.checkpoint.derived import adopted, derived
from petrun.errors import ConfigError, OutputError
from petrun.inference.assembly import require_matching_base, require_matching_family, strategy_path
from petrun.inference.stored_base import StoredBase, stored_base

_LISTED = 24


@dataclass(frozen=True)
class Weighted:
    """`a.ckpt:0.7` as typed."""

    path: str
    weight: float


def weighted(text: str) -> Weighted:
    """`PATH:WEIGHT`, or a path alone, of weight 1. A path that exists with the colon in it is a path. Raises ConfigError."""
    path, mark, number = text.rpartition(":")
    if not mark or Path(text).expanduser().exists():
        return Weighted(text, 1.0)
    try:
        weight = float(number)
    except ValueError:
        raise ConfigError(f"{text}: {number!r} is not a weight", hint="Example: runs/a.ckpt:0.7") from None
    if not math.isfinite(weight) or weight == 0.0:
        raise ConfigError(f"{text}: a weight is a finite number other than 0")
    return Weighted(path, weight)


class Opener:
    """Opens deltas in petrun's names; the base is touched only where something asks for it."""

    def __init__(
        self,
        base: str | None,
        family: str | None,
        alpha: float | None,
        base_strategy: str | None = None,
        delta_strategy: str | None = None,
        model: StoredBase | None = None,
    ) -> None:
        """The strategies say how base and deltas were cut, where they lie in the files of a job's ranks. model: opened already."""
        self.given = base
        self.family = family
        self.alpha = alpha
        self.base_strategy = base_strategy
        self.delta_strategy = delta_strategy
        self._base = model
        self._digest: str | None = None

    @property
    def base(self) -> StoredBase:
        if self._base is None:
            self._base = stored_base(self.given, self.family, self.base_strategy)
        return self._base

    def digest(self) -> str:
        """The base's identity; every tensor is read, once."""
        if self._digest is None:
            self._digest = self.base.digest()
        return self._digest

    def __call__(self, *paths: str) -> list[Delta]:
        """The deltas with their settings complete and a manifest. One of another tool is fitted to the base, and gets its identity.

        Raises DeltaError, also for a base given that is not a delta's own; ModelError; ConfigError for --alpha that none of them needs.
        """
        read = [read_delta(Path(path).expanduser(), strategy_path(self.delta_strategy)) for path in paths]
        if self.alpha is not None and all(delta.origin != "mindpet" for delta in read):
            raise ConfigError(
                f"--alpha is for MindPet checkpoints: {paths[0]} states its own",
                hint="Leave --alpha out; it is in the delta.",
            )
        return [self._fitted(delta) for delta in read]

    def _fitted(self, given: Delta) -> Delta:
        if given.manifest is not None:
            if self.given is not None:
                require_matching_family(given, self.base.raw)
                require_matching_base(given, self.digest())
            return self._complete(given)
        base, alpha = self.base, self.alpha if given.origin == "mindpet" else None
        arrays = base.arrays()
        fitted = self._with_heads(base.fit(given, alpha), arrays)
        identity = base.identity(arrays, self.digest())
        model_type = base.raw.get("model_type", base.family)
        fitted = self._complete(fitted)
        return replace(fitted, manifest=adopted(fitted, identity, base.family, model_type, base.raw))

    @staticmethod
    def _complete(delta: Delta) -> Delta:
        _, config = method_of(delta.algo, delta.config, delta.path)
        return replace(delta, config=config.model_dump(mode="json"))

    def _with_heads(self, delta: Delta, arrays: BaseArrays) -> Delta:
        """petrun's own deltas bring the task's head always: one of another tool that left it alone brings the base's."""
        patterns = self.base.sites.trained_heads if self.base.sites else ()
        heads = [name for name in self.base.names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        lacking = {name: arrays[name] for name in heads if name not in delta.tensors and name in arrays}
        if not lacking:
            return delta
        tensors = {**{name: delta.tensors[name] for name in delta.tensors}, **lacking}
        return replace(delta, tensors=tensors, digest=arrays_digest(tensors))


def check_out(out: str | None, suffixes: Sequence[str] = (".ckpt", ".safetensors")) -> Path:
    """The path of a delta to be written. Raises ConfigError for none, OutputError for one that exists or has another ending."""
    if out is None:
        raise ConfigError("--out is missing: where to write the delta", hint="Example: --out sum.ckpt")
    path = Path(out).expanduser()
    if path.suffix not in suffixes:
        raise OutputError(f"{out}: a delta file ends in {' or '.join(suffixes)}", hint="Example: --out sum.ckpt")
    if path.exists():
        raise OutputError(f"{out}: exists", hint="Choose another --out, or remove it first.")
    return path


def write(out: Path, sources: Sequence[Delta], made: Made, how: Sequence[str]) -> None:
    """Save a delta made of others, and say what it is and what it cost."""
    manifest, notes = derived(sources, made, how)
    written = save_delta(out, made.tensors, manifest)
    report(made)
    for note in (*made.notes, *notes):
        console.print(f"note: {note}")
    console.print(f"wrote {out}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")


def report(made: Made) -> None:
    """Rank, norm and relative error of every layer, and of all."""
    if not made.layers:
        return
    width = max(len(layer.path) for layer in made.layers)
    for layer in made.layers[:_LISTED]:
        console.print(
            f"  {layer.path.ljust(width)}  rank {layer.rank:<4d} norm {layer.norm:<10.4g} error {layer.relative:.3e}"
        )
    if len(made.layers) > _LISTED:
        console.print(f"  ... and {len(made.layers) - _LISTED} more layers")
    ranks = sorted({layer.rank for layer in made.layers})
    spelt = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    console.print(f"{len(made.layers)} layers, rank {spelt}; relative error (Frobenius) {made.relative:.3e} in all")


def line(delta: Delta, weight: float = 1.0) -> str:
    """A source, as the manifest of what was made of it names it."""
    return f"{delta.path.name} ({delta.algo}) x {weight:g}, digest {delta.digest}"
