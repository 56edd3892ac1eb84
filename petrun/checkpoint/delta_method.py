"""Find the method that a delta names, and validate the delta's settings."""

from __future__ import annotations

from pydantic import ValidationError

from petrun.delta import Method, MethodConfig, find_method
from petrun.errors import ConfigError, DeltaError
from petrun.typing import JsonObject


def method_of(algo: str, config: JsonObject, where: object) -> tuple[Method, MethodConfig]:
    """Return the method that a delta names, and its validated settings. Raises DeltaError."""
    try:
        method = find_method(algo)
    except ConfigError as error:
        raise DeltaError(f"{where}: names an {error.message}", hint=error.hint) from error
    try:
        # The manifest is JSON, where tuples are lists.
        return method, method.config.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DeltaError(f"{where}: setting {key} of {algo} does not read: {first['msg']}") from error
