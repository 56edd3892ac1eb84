"""Settings that are short for others: --train-rows for an algorithm that is joined, FILE:SHARE for a file and its share."""

from __future__ import annotations

from petrun.config.resolved import as_typed
from petrun.data.rows.shares import split_share
from petrun.errors import ConfigError
from petrun.typing import JsonObject


def join_rows(values: JsonObject, origins: dict[str, str]) -> None:
    """Join `rows` to the algorithm where its rows are named: --train-rows new is --algo lora+rows --set delta.rows=new."""
    from petrun.delta import rows
    from petrun.delta.compose import JOIN, split_names

    algo = values.get("algo", "lora")
    if values.get("delta.rows") is not None and isinstance(algo, str) and rows.METHOD.name not in split_names(algo):
        values["algo"] = f"{algo}{JOIN}{rows.METHOD.name}"
        origins.setdefault("algo", origins["delta.rows"])


def split_shares(values: JsonObject, origins: dict[str, str]) -> None:
    """Take the shares out of data.path: --data a.jsonl:0.8,b.jsonl:0.2 is two files and data.shares. Raises ConfigError."""
    names = values.get("data.path")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple):
        return
    parts = [split_share(str(name)) for name in names]
    shares = [share for _, share in parts if share is not None]
    if not shares:
        return
    typed = as_typed("data.path", origins)
    if len(shares) < len(parts):
        without = next(path for path, share in parts if share is None)
        raise ConfigError(f"{typed}: {without} has no share, and others do", hint=f"Example: {without}:0.5")
    if "data.shares" in values:
        raise ConfigError(f"{typed} and {as_typed('data.shares', origins)}: both give shares", hint="Leave one out.")
    values |= {"data.path": tuple(path for path, _ in parts), "data.shares": tuple(shares)}
    origin = origins["data.path"]
    origins["data.shares"] = f"{origin} FILE:SHARE" if origin.startswith("--") else origin
