"""Resolve the rows of the token table that a run trains: `new` becomes the ids that the base names."""

from __future__ import annotations

from petrun.checkpoint.vocabulary import NEW_ROWS, read_new_rows
from petrun.config.resolved import Resolved
from petrun.delta.rows import NEW, RowsConfig
from petrun.errors import ConfigError
from petrun.inference.assembly import base_path


def resolve_new_rows(settings: Resolved) -> Resolved:
    """Return the settings with the ids of new rows. Raises ConfigError for a base that names none, ModelError for a damaged list."""
    delta = settings.config.delta
    if not isinstance(delta, RowsConfig) or delta.rows != NEW:
        return settings
    base = base_path(settings.config.model)
    found = read_new_rows(base) if base is not None and base.is_dir() else None
    if found is None:
        raise ConfigError(
            f"--train-rows {NEW}: {base or 'this model'} does not say which of its rows are new (there is no {NEW_ROWS})",
            hint="petrun vocab merge writes a base that says so; for any other give ids: --train-rows 32000-49952.",
        )
    return settings.settle({"delta": delta.model_copy(update={"rows": found})})
