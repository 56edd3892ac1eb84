"""uvicorn in a thread of its own: the main one computes, which is where MindSpore wants to be and where signals arrive."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from typing import Any

import uvicorn

from petrun.errors import ConfigError, SetupError

_START_SECONDS = 30.0


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, not listening yet. Raises ConfigError for a host that is none, SetupError for a port that is taken."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: must lie in 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        place.close()
        raise SetupError(
            f"--host {host} --port {port}: cannot be used: {error.strerror or error}", hint="Choose another --port."
        ) from error
    return place


class HttpServer:
    """Serves an ASGI application on a bound socket from `start` to `stop`."""

    def __init__(self, app: Any, place: socket.socket, *, grace_seconds: float, most_connections: int) -> None:
        self._place = place
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=most_connections,
                timeout_graceful_shutdown=max(1, round(grace_seconds)),
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([place],), name="http", daemon=True)

    def start(self) -> None:
        """Return once connections are taken. Raises SetupError where that does not come about."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise SetupError("the HTTP server did not start")
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def refuse(self) -> None:
        """Take no more connections; those that wait for an answer stay."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End, once what has been answered is sent."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(self._server.config.timeout_graceful_shutdown or 1)
        self._place.close()
