"""Check a server's settings before anything is loaded: its numbers, its API key, the packages that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from petrun.config.load import environment
from petrun.errors import ConfigError, SetupError
from petrun.serve.address import is_loopback

_SPARE_CONNECTIONS = 64
"""Connections beside those that wait for an answer: for /health, and for errors that say that too many wait."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The address, the key and the limits of a server."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    key_env: str | None = None
    """Environment variable that holds the API key."""
    key_file: str | None = None
    """File that holds the API key."""
    without_key: bool = False
    """Serve without a key although other machines reach the address."""
    queue: int = 32
    """Requests that may wait."""
    batch_size: int = 8
    """Requests that are computed together."""
    max_tokens: int = 1024
    """Most new tokens that a request may ask for."""
    grace_seconds: float = 30.0
    """Time that requests may still take after a signal."""

    @property
    def most_connections(self) -> int:
        return self.queue + self.batch_size + _SPARE_CONNECTIONS

    def check(self) -> None:
        """Raises ConfigError, once, for every number that is out of range."""
        positive = {"--queue": self.queue, "--batch-size": self.batch_size, "--max-tokens": self.max_tokens}
        wrong = [f"{flag} {value}: must be at least 1" for flag, value in positive.items() if value < 1]
        if not 0 <= self.grace_seconds < 1e6:
            wrong.append(f"--grace {self.grace_seconds:g}: must be a number of seconds, 0 or more")
        if wrong:
            raise ConfigError("\n".join(wrong))


def require_packages() -> None:
    """Raises SetupError where the packages of the extra `serve` are not installed."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"petrun serve needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}",
            hint="pip install 'petrun[serve]'",
        )


def read_api_key(settings: ServerSettings) -> str | None:
    """Read the API key; None for a server without one.

    Raises ConfigError for a key that is empty or cannot be read, and for none where other machines reach the server.
    """
    if settings.key_env is not None and settings.key_file is not None:
        raise ConfigError("--api-key-env and --api-key-file: give one of them")
    if settings.key_env is not None:
        return _checked(environment(settings.key_env), f"--api-key-env {settings.key_env}: the variable")
    if settings.key_file is not None:
        try:
            text = Path(settings.key_file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"--api-key-file {settings.key_file}: cannot be read: {reason}") from error
        return _checked(text, f"--api-key-file {settings.key_file}: the file")
    if not is_loopback(settings.host) and not settings.without_key:
        raise ConfigError(
            f"--host {settings.host}: other machines reach this address, and no API key is asked for",
            hint="Give --api-key-env NAME or --api-key-file FILE; --without-api-key serves everyone who reaches it.",
        )
    return None


def _checked(key: str | None, source: str) -> str:
    text = (key or "").strip()
    if not text:
        raise ConfigError(
            f"{source} is {'not set' if key is None else 'empty'}", hint="It holds the key that clients send."
        )
    if not text.isascii() or any(c.isspace() for c in text):
        raise ConfigError(f"{source} must hold one word of ASCII characters")
    return text
