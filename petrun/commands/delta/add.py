"""`petrun delta add`: the weighted sum of deltas, on files."""

from __future__ import annotations

from petrun import console
from petrun.algebra.derived import refuse_other_bases, source_line
from petrun.algebra.low_rank import Keep
from petrun.algebra.sums import Term
from petrun.algebra.ties_dare import Combine, Dare, Ties
from petrun.commands.delta.files import check_out, write
from petrun.commands.delta.sums import operation, total
from petrun.config.commands.delta import AddSettings
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.delta_opener import DeltaOpener, weighted_path

_METHODS = ("sum", "ties", "dare")


def run(settings: AddSettings) -> None:
    """Write the weighted sum of deltas of one base. Raises DeltaError where a delta is not a sum, or the bases differ."""
    path = check_out(settings.out)
    combine, keep = _combine(settings), Keep(settings.rank, settings.energy)
    asked = [weighted_path(text) for text in settings.deltas]
    if len(asked) < 2:
        raise ConfigError(
            "add takes at least two deltas", hint="Example: petrun delta add a.ckpt:0.7 b.ckpt:0.3 --out c.ckpt"
        )
    opener = DeltaOpener(settings)
    opened = opener(*(each.path for each in asked))
    terms = [Term(delta, each.weight) for delta, each in zip(opened, asked, strict=True)]
    refuse_other_bases(opened)
    made = total(terms, opener, combine, keep)
    if combine is not None:
        console.print(
            f"{settings.method}: on scale * B A of each layer, and on the change of each parameter trained whole"
        )
    how = [operation(settings.method, combine, keep), *(source_line(term.delta, term.weight) for term in terms)]
    write(path, opened, made, how)


def _combine(settings: AddSettings) -> Combine | None:
    """Return the function that joins changes; None: the plain weighted sum. Raises ConfigError for settings of another method."""
    if settings.method not in _METHODS:
        raise ConfigError(f"--method {settings.method} is unknown. {did_you_mean(settings.method, _METHODS)}")
    given = (
        ("--density", settings.density, "ties"),
        ("--drop", settings.drop, "dare"),
        ("--seed", settings.seed, "dare"),
    )
    for flag, value, owner in given:
        if value is not None and settings.method != owner:
            raise ConfigError(f"{flag} is for --method {owner}", hint=f"Leave it out, or add --method {owner}.")
    if settings.method == "ties":
        return Ties() if settings.density is None else Ties(settings.density)
    if settings.method == "dare":
        return Dare(0.9 if settings.drop is None else settings.drop, settings.seed or 0)
    return None
