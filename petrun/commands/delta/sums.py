"""Shared steps of adding and scaling deltas: form the sum, which reads the base only where it must, and name it for the manifest."""

from __future__ import annotations

from collections.abc import Sequence

from petrun.algebra.full_tensors import NeedsBase
from petrun.algebra.low_rank import Keep
from petrun.algebra.sums import NewDelta, Term, added
from petrun.algebra.ties_dare import Combine, Dare, Ties
from petrun.checkpoint.delta import Delta
from petrun.errors import DeltaError
from petrun.inference.delta_opener import DeltaOpener


def total(
    terms: Sequence[Term], opener: DeltaOpener, combine: Combine | None = None, keep: Keep | None = None
) -> NewDelta:
    """Return the sum. The base is read only where full tensors need it."""
    try:
        return added(terms, combine=combine, keep=keep)
    except NeedsBase as error:
        delta = terms[0].delta
        if opener.sources.base is None and not _is_own(delta, opener):
            raise error
        return added(terms, base=opener.base.arrays(), combine=combine, keep=keep)


def _is_own(delta: Delta, opener: DeltaOpener) -> bool:
    """Return whether the embedded base is the one the delta was trained on."""
    try:
        opener.require_own_base(delta)
    except DeltaError:
        return False
    return True


def operation(word: str, combine: Combine | None, keep: Keep) -> str:
    """Return the operation with its settings, as the manifest of its result names it."""
    parts = [word]
    if isinstance(combine, Ties):
        parts.append(f"density {combine.density:g}")
    if isinstance(combine, Dare):
        parts.append(f"drop {combine.drop:g} seed {combine.seed}")
    if keep.rank is not None:
        parts.append(f"rank {keep.rank}")
    if keep.energy is not None:
        parts.append(f"energy {keep.energy:g}")
    return ", ".join(parts)
