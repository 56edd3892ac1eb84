"""`petrun delta scale`: multiply a delta by a factor."""

from __future__ import annotations

from petrun.algebra.derived import source_line
from petrun.algebra.sums import Term
from petrun.commands.delta.files import check_out, write
from petrun.commands.delta.sums import total
from petrun.config.commands.delta import ScaleSettings
from petrun.errors import ConfigError
from petrun.inference.delta_opener import DeltaOpener


def run(settings: ScaleSettings) -> None:
    """Write the delta times a factor. Raises ConfigError for a factor that is 0 or not finite, DeltaError for a delta that is not a sum."""
    path, factor = check_out(settings.out), settings.factor
    if factor == 0.0 or factor != factor or abs(factor) == float("inf"):
        raise ConfigError(f"{factor}: a factor is a finite number other than 0")
    opener = DeltaOpener(settings)
    (given,) = opener(settings.delta)
    made = total([Term(given, factor)], opener)
    write(path, [given], made, [f"scale by {factor:g}", source_line(given)])
