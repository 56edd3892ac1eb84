"""`petrun delta add`, `scale` and `compress`: a delta out of others, on files."""

from __future__ import annotations

from collections.abc import Sequence

from petrun import console
from petrun.algebra.full_tensors import NeedsBase
from petrun.algebra.low_rank import Keep
from petrun.algebra.sums import Made, Term, added, compressed
from petrun.algebra.ties_dare import Combine, Dare, Ties
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.derived import refuse_other_bases
from petrun.commands.delta.files import Opener, check_out, line, weighted, write
from petrun.errors import ConfigError, DeltaError, did_you_mean
from petrun.inference.assembly import require_matching_base

_METHODS = ("sum", "ties", "dare")


def add(
    deltas: Sequence[str],
    *,
    out: str | None,
    base: str | None = None,
    family: str | None = None,
    alpha: float | None = None,
    method: str = "sum",
    density: float | None = None,
    drop: float | None = None,
    seed: int | None = None,
    rank: int | None = None,
    energy: float | None = None,
) -> None:
    """Write the weighted sum of deltas of one base. Raises DeltaError where a delta is no sum, or the bases differ."""
    path = check_out(out)
    combine = _combine(method, density, drop, seed)
    keep = Keep(rank, energy)
    asked = [weighted(text) for text in deltas]
    if len(asked) < 2:
        raise ConfigError(
            "add takes at least two deltas", hint="Example: petrun delta add a.ckpt:0.7 b.ckpt:0.3 --out c.ckpt"
        )
    opener = Opener(base, family, alpha)
    sources = opener(*(each.path for each in asked))
    terms = [Term(delta, each.weight) for delta, each in zip(sources, asked, strict=True)]
    refuse_other_bases(sources)
    made = total(terms, opener, combine, keep)
    if combine is not None:
        console.print(f"{method}: on scale * B A of each layer, and on the change of each parameter trained whole")
    how = [_spelt(method, combine, keep), *(line(term.delta, term.weight) for term in terms)]
    write(path, sources, made, how)


def total(terms: Sequence[Term], opener: Opener, combine: Combine | None = None, keep: Keep | None = None) -> Made:
    """The sum; the base is read only where whole tensors ask for it."""
    try:
        return added(terms, combine=combine, keep=keep)
    except NeedsBase as error:
        delta = terms[0].delta
        if opener.given is None and not _is_own(delta, opener):
            raise error
        return added(terms, base=opener.base.arrays(), combine=combine, keep=keep)


def _is_own(delta: Delta, opener: Opener) -> bool:
    """Whether the embedded base is the one the delta was trained on."""
    try:
        require_matching_base(delta, opener.digest())
    except DeltaError:
        return False
    return True


def scale(
    delta: str, factor: float, *, out: str | None, base: str | None, family: str | None, alpha: float | None
) -> None:
    """Write the delta times a factor."""
    path = check_out(out)
    if factor == 0.0 or factor != factor or abs(factor) == float("inf"):
        raise ConfigError(f"{factor}: a factor is a finite number other than 0")
    opener = Opener(base, family, alpha)
    (given,) = opener(delta)
    made = total([Term(given, factor)], opener)
    write(path, [given], made, [f"scale by {factor:g}", line(given)])


def compress(
    delta: str,
    *,
    out: str | None,
    rank: int | None,
    energy: float | None,
    base: str | None,
    family: str | None,
    alpha: float | None,
) -> None:
    """Write the delta with every layer cut to fewer ranks."""
    path = check_out(out)
    keep = Keep(rank, energy)
    if keep.everything:
        raise ConfigError("--rank or --energy is missing: how much to keep", hint="Example: --energy 0.99")
    (given,) = Opener(base, family, alpha)(delta)
    write(path, [given], compressed(given, keep), [_spelt("compress", None, keep), line(given)])


def _combine(method: str, density: float | None, drop: float | None, seed: int | None) -> Combine | None:
    if method not in _METHODS:
        raise ConfigError(f"--method {method} is unknown. {did_you_mean(method, _METHODS)}")
    for flag, value, owner in (("--density", density, "ties"), ("--drop", drop, "dare"), ("--seed", seed, "dare")):
        if value is not None and method != owner:
            raise ConfigError(f"{flag} is for --method {owner}", hint=f"Leave it out, or add --method {owner}.")
    if method == "ties":
        return Ties() if density is None else Ties(density)
    if method == "dare":
        return Dare(0.9 if drop is None else drop, seed or 0)
    return None


def _spelt(word: str, combine: Combine | None, keep: Keep) -> str:
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
