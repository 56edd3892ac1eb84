"""Check a server before anything is loaded: its packages and its API key. Its numbers are checked by petrun.config.commands.text."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from petrun.config.commands.text import ServerSettings
from petrun.config.effect import require_effect
from petrun.config.load import environment
from petrun.errors import ConfigError, SetupError
from petrun.serve.address import is_loopback


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
    if settings.key_env is not None or settings.key_file is not None:
        require_effect(
            settings, ("without_key",), "beside a key, which clients must send then", "Leave one of them out."
        )
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
