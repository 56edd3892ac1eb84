"""`petrun delta compress`: a delta whose layers have fewer ranks."""

from __future__ import annotations

from petrun.algebra.derived import source_line
from petrun.algebra.low_rank import Keep
from petrun.algebra.sums import compressed
from petrun.commands.delta.files import check_out, write
from petrun.commands.delta.sums import operation
from petrun.config.commands.delta import CompressSettings
from petrun.errors import ConfigError
from petrun.inference.delta_opener import DeltaOpener


def run(settings: CompressSettings) -> None:
    """Write the delta with every layer truncated to fewer ranks. Raises ConfigError, DeltaError for a delta without ranks."""
    path = check_out(settings.out)
    keep = Keep(settings.rank, settings.energy)
    if keep.everything:
        raise ConfigError("--rank or --energy is missing: how much to keep", hint="Example: --energy 0.99")
    (given,) = DeltaOpener(settings)(settings.delta)
    write(path, [given], compressed(given, keep), [operation("compress", None, keep), source_line(given)])
