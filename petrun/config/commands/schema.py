"""`petrun schema`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import option


@dataclass(frozen=True, kw_only=True)
class SchemaSettings:
    """Where the schema goes."""

    out: str | None = option("--out", "Write it to this file. Default: print it.")
    force: bool = option("--force", "Replace the file where it exists.", default=False)
