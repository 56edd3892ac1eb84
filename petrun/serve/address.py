"""Bind the address that a server listens at."""

from __future__ import annotations

import ipaddress
import socket

from petrun.errors import ConfigError, SetupError


def is_loopback(host: str) -> bool:
    """Tell whether only programs of this machine reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to the address; it does not listen yet.

    Raises ConfigError for a host that is no address of this machine, SetupError for a port that is taken.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: must lie in 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SetupError(
            f"--host {host} --port {port}: cannot be used: {error.strerror or error}", hint="Choose another --port."
        ) from error
    return bound
