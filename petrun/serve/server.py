"""Run uvicorn in a thread of its own: the main thread computes, because MindSpore needs it and signals arrive there."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette

from petrun.errors import SetupError

_START_SECONDS = 30.0


class HttpServer:
    """Serves an ASGI application on a bound socket from `start` to `stop`."""

    def __init__(self, app: Starlette, bound: socket.socket, *, grace_seconds: float, most_connections: int) -> None:
        self._socket = bound
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
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="http", daemon=True)

    def start(self) -> None:
        """Start, and return once connections are accepted. Raises SetupError where they are not within 30 seconds."""
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
        """Accept no more connections; those that wait for an answer stay."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End, once all answers are sent."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(self._server.config.timeout_graceful_shutdown or 1)
        self._socket.close()
