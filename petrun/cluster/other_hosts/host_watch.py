"""Watch the job's other hosts while ranks run here. A host whose ranks have ended sends a notice; a silent host counts as lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType

from petrun.cluster.other_hosts.connection import Connection, ConnectionLost
from petrun.cluster.other_hosts.hosts import Hosts
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class EndNotice:
    """The reason why an attempt ends, as another host reported it or as this host observed it."""

    kind: str
    """"failed", "stopped" or "lost"."""
    host: str
    """The host, such as "host 1 (node-b)"."""
    what: str
    """"rank 1 was ended by SIGKILL"."""
    code: int
    """The exit code of the attempt."""
    stopped: int = 0
    """The signal that petrun got there."""
    log: Sequence[str] = ()
    """The end of the log there; for a lost host, how it was lost."""


class HostWatch:
    """A context manager: while its block runs, a thread exchanges messages with the other hosts."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.notice: EndNotice | None = None
        """The first that is a reason to end."""
        self.first_is_done = False
        """Host 0 has ended well, and with it the scheduler."""
        self._done: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> HostWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, notice: EndNotice | None) -> None:
        """Tell all hosts why the attempt ends; None: the ranks of this host have ended well."""
        self._tell({"done": True} if notice is None else {"news": asdict(notice)})

    def wait(self, seconds: float) -> EndNotice | None:
        """Wait this long for a notice, and return it."""
        deadline = time.monotonic() + seconds
        while self.notice is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.notice

    def _tell(self, message: JsonObject, but: int | None = None) -> None:
        for host, connection in self.hosts.connections.items():
            if host != but:
                with suppress(ConnectionLost):
                    connection.send(message)

    def _keep(self) -> None:
        connections = dict(self.hosts.connections)
        began = time.monotonic()
        heard, sent = dict.fromkeys(connections, began), began
        beat = min(2.0, self.hosts.silence / 5)
        with DefaultSelector() as selector:
            for host, connection in connections.items():
                selector.register(connection.socket, EVENT_READ, host)
            while not self._over.is_set():
                ready = [key.data for key, _ in selector.select(0.1)]
                now = time.monotonic()
                if now - sent > beat:
                    self._tell({"alive": True})
                    sent = now
                for host in ready:
                    heard[host] = now
                    if not self._handle_messages(host, connections[host]):
                        selector.unregister(connections[host].socket)
                        del heard[host]
                for host in [host for host, last in heard.items() if now - last > self.hosts.silence]:
                    self._lose(
                        host,
                        f"nothing was heard of it for {self.hosts.silence:.0f} s: the network is cut, or it is down",
                    )
                    selector.unregister(connections[host].socket)
                    del heard[host]

    def _handle_messages(self, host: int, connection: Connection) -> bool:
        """Handle the messages of one host. Returns False where the connection has ended."""
        why = "its petrun has ended without a word: it was killed, or the host went down"
        try:
            messages, is_open = connection.arrived()
        except ConnectionLost as error:
            messages, is_open, why = [], False, str(error)
        for message in messages:
            if "done" in message:
                self._done.add(host)
                self.first_is_done |= host == 0
            elif "news" in message:
                self._take(EndNotice(**message["news"]), host)
        if not is_open and host not in self._done:
            self._lose(host, why)
        return is_open

    def _lose(self, host: int, why: str) -> None:
        if host not in self._done:
            named = self.hosts.named(host)
            self._take(EndNotice(kind="lost", host=named, what=f"{named} was lost", code=1, log=(why,)), host)

    def _take(self, notice: EndNotice, origin: int) -> None:
        self.notice = self.notice or notice
        if self.hosts.cluster.host_rank == 0:
            self._tell({"news": asdict(notice)}, but=origin)
