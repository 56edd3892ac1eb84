"""Send messages over a TCP connection between two hosts of a job, each a line of JSON."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector

from petrun.typing import JsonObject

PAUSE_SECONDS = 0.2
"""The pause between two checks of whether to stop waiting."""
_LONGEST_LINE = 16 * 1024 * 1024


class ConnectionLost(Exception):
    """A connection has ended, is silent or carries something that is not a message."""


class ForeignProgram(ConnectionLost):
    """The other end is not this version of petrun."""


class Connection:
    """A connection that carries one JSON object a line."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message. Raises ConnectionLost."""
        with self._sending:
            try:
                self.socket.settimeout(10.0)
                self.socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise ConnectionLost(error.strerror or "it does not take what is sent") from error

    def receive(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> JsonObject:
        """Return the next message. Raises ConnectionLost, also where none has come in this time or `stopped` says so."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if time.monotonic() > deadline or stopped():
                raise ConnectionLost(f"no answer within {seconds:.0f} s")
            if not self._pull(PAUSE_SECONDS):
                raise ConnectionLost("its petrun has ended")
        line, self._rest = self._rest.split(b"\n", 1)
        return _message(line)

    def arrived(self) -> tuple[list[JsonObject], bool]:
        """Return the messages that are there, of a connection that has something to read, and whether it is still open. Raises
        ConnectionLost."""
        is_open = self._pull(0.01)
        *lines, self._rest = self._rest.split(b"\n")
        return [_message(line) for line in lines], is_open

    def close(self) -> None:
        """Close the connection after the other end has read all; what it sent itself is read first."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(0.5)
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline and self.socket.recv(65536):
                pass
        self.socket.close()

    def _pull(self, seconds: float) -> bool:
        """Read data that arrives within this time. Returns False where the other end has closed. Raises ConnectionLost."""
        try:
            with DefaultSelector() as selector:
                selector.register(self.socket, EVENT_READ)
                if not selector.select(seconds):
                    return True
            found = self.socket.recv(65536)
        except OSError as error:
            raise ConnectionLost(error.strerror or "the connection has ended") from error
        self._rest += found
        if len(self._rest) > _LONGEST_LINE:
            raise ForeignProgram("what it sends is no message of petrun's")
        return bool(found)


def _message(line: bytes) -> JsonObject:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ForeignProgram("what it sends is no message of petrun's") from error
