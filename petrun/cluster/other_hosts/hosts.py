"""Connect petrun on the hosts of a job over TCP: each starts and watches the ranks of its own host alone.

Host 0 listens on --master-port and the others connect. Before an attempt the hosts compare the job's shape and exchange values;
host_watch.py watches the others while ranks run.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from petrun.cluster.other_hosts.connection import PAUSE_SECONDS, Connection, ConnectionLost, ForeignProgram
from petrun.cluster.ports import check_port, listen, resolve
from petrun.cluster.ranks import Cluster, seconds_of
from petrun.errors import SetupError
from petrun.typing import JsonObject

_PROTOCOL = 1
"""Version of the messages."""
_GREETING = {"petrun": _PROTOCOL}
_ANSWER_SECONDS = 120.0
"""The time limit of an exchange: a host may read files before it answers."""


class Hosts:
    """This host's connections to the other hosts, until the job's end."""

    def __init__(
        self, cluster: Cluster, *, max_restarts: int, show: Callable[[str], None], environment: Mapping[str, str]
    ) -> None:
        self.cluster, self.show = cluster, show
        self.address = resolve(cluster.address)
        self.port = cluster.port or 0
        self.names = {cluster.host_rank: socket.gethostname()}
        """The names of the hosts that this one has met: all on host 0, host 0 on the others."""
        self.connections: dict[int, Connection] = {}
        self.patience = seconds_of(environment, "MS_TOPO_TIMEOUT")
        # Shorter than MindSpore's own limit, so that petrun reports the lost host before a rank ends because of it.
        limit = seconds_of(environment, "MS_NODE_TIMEOUT")
        self.silence = max(limit - 5.0, limit / 2)
        self._shape = {"--cards": cluster.cards, "--hosts": cluster.hosts, "--max-restarts": max_restarts}
        self._listener: socket.socket | None = None

    def __enter__(self) -> Hosts:
        if self.cluster.host_rank == 0:
            check_port(self.address, self.port)
            self._listener = listen(self.address, self.port, self.cluster.hosts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()
        if self._listener is not None:
            self._listener.close()

    def named(self, host: int) -> str:
        """ "host 1 (node-b)"."""
        return f"host {host} ({self.names[host]})" if host in self.names else f"host {host}"

    def disconnect(self) -> None:
        """Close all connections; host 0 keeps listening."""
        for connection in self.connections.values():
            connection.close()
        self.connections = {}

    def connect_all(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Connect with all other hosts, and check that all have the same options. Returns False where `stopped` became true meanwhile.

        Raises SetupError where a host does not connect, or has other options.
        """
        self.disconnect()
        deadline = time.monotonic() + self.patience
        return self._gather(deadline, stopped) if self._listener is not None else self._reach(deadline, stopped)

    def exchange(self, value: Any, stopped: Callable[[], bool] = lambda: False) -> list[Any]:
        """Return the values of all hosts, by host rank. All hosts must call it at the same point. Raises SetupError for a lost host."""
        if self._listener is None:
            try:
                self.connections[0].send({"value": value})
                answer = self.connections[0].receive(2 * _ANSWER_SECONDS, stopped)
            except ConnectionLost as error:
                raise self._gone(0, error) from error
            self._require(answer, "values")
            return list(answer["values"])
        values = [value]
        for host in sorted(self.connections):
            try:
                answer = self.connections[host].receive(_ANSWER_SECONDS, stopped)
                values.append(answer["value"])
            except (ConnectionLost, KeyError, TypeError) as error:
                gone = self._gone(host, error)
                self._tell_all({"refused": gone.message})
                raise gone from error
        self._tell_all({"values": values})
        return values

    def _gone(self, host: int, error: Exception) -> SetupError:
        return SetupError(
            f"{self.named(host)} was lost before the ranks started: {error}",
            hint="What petrun says there is the reason.",
        )

    def _require(self, answer: JsonObject, key: str) -> None:
        if isinstance(answer, dict) and "refused" in answer:
            raise SetupError(f"{self.named(0)} refuses: {answer['refused']}")
        if not isinstance(answer, dict) or key not in answer:
            raise self._other_program(f"it says {str(answer)[:60]}")

    def _tell_all(self, message: JsonObject) -> None:
        for connection in self.connections.values():
            with suppress(ConnectionLost):
                connection.send(message)

    def _gather(self, deadline: float, stopped: Callable[[], bool]) -> bool:
        """Wait on host 0 until all other hosts have connected."""
        assert self._listener is not None
        self._listener.settimeout(PAUSE_SECONDS)
        said = False
        while missing := [host for host in range(1, self.cluster.hosts) if host not in self.connections]:
            if stopped():
                return False
            named = f"host{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            if time.monotonic() > deadline:
                self._tell_all({"refused": f"{named} did not come"})
                raise SetupError(
                    f"{named} did not come to {self.address} port {self.port} within {self.patience:.0f} s",
                    hint="Run the same command there, with its --host-rank; it must reach this address. MS_TOPO_TIMEOUT sets the time.",
                )
            try:
                connected, _ = self._listener.accept()
            except TimeoutError:
                if not said:
                    self.show(f"waiting for {named} of {self.cluster.hosts} on {self.address} port {self.port}")
                said = True
                continue
            self._admit(Connection(connected))
        self._tell_all({"met": self.names[0]})
        return True

    def _admit(self, connection: Connection) -> None:
        """Accept a connecting host, and drop any other program. Raises SetupError for a host of another job."""
        try:
            connection.send(_GREETING)
            hello = connection.receive(5.0)
            host, name, shape = int(hello["host"]), str(hello["name"]), dict(hello["shape"])
        except (ConnectionLost, KeyError, TypeError, ValueError):
            connection.socket.close()
            return
        there = f"host {host} ({name})"
        differences = [
            f"{key} {own} here, {shape.get(key)} on {there}"
            for key, own in self._shape.items()
            if shape.get(key) != own
        ]
        if not differences and host == 0:
            differences = [f"--host-rank 0 here, and on {name}"]
        elif not differences and host in self.connections and self._is_open(host):
            differences = [f"--host-rank {host} on {self.names[host]}, and on {name}"]
        if differences:
            self.connections[-1] = connection
            differs = f"the hosts were not told the same: {'; '.join(differences)}"
            self._tell_all({"refused": differs})
            raise SetupError(differs, hint="Every host takes the same command, each with a --host-rank of its own.")
        self.names[host] = name
        self.connections[host] = connection

    def _is_open(self, host: int) -> bool:
        """Return whether a host is still connected. A host that has gone may connect again, as nothing is sent before all are connected."""
        with suppress(ConnectionLost):
            return self.connections[host].arrived()[1]
        return False

    def _reach(self, deadline: float, stopped: Callable[[], bool]) -> bool:
        """On another host: connect to host 0 until it accepts."""
        address, said = f"{self.address} port {self.port}", False
        while time.monotonic() < deadline:
            if stopped():
                return False
            try:
                self._enter(deadline, stopped)
                return True
            except ForeignProgram as error:
                raise self._other_program(str(error)) from error
            except (OSError, ConnectionLost):
                # Host 0 is not there yet, or ends an attempt.
                pass
            self.connections = {}
            if not said:
                self.show(f"waiting for host 0 at {address}")
            said = True
            time.sleep(PAUSE_SECONDS)
        raise SetupError(
            f"host 0 did not answer at {address} within {self.patience:.0f} s",
            hint="Is petrun running there with --host-rank 0, and does this host reach that address? MS_TOPO_TIMEOUT sets the time.",
        )

    def _enter(self, deadline: float, stopped: Callable[[], bool]) -> None:
        """Make one attempt to be accepted by host 0. Raises OSError and ConnectionLost where it is not there, SetupError where it
        refuses."""
        connection = Connection(socket.create_connection((self.address, self.port), timeout=5.0))
        self.connections = {0: connection}
        left = deadline - time.monotonic()
        if (greeting := connection.receive(left, stopped)) != _GREETING:
            raise self._other_program(f"it says {str(greeting)[:60]}")
        own = self.cluster.host_rank
        connection.send({"host": own, "name": self.names[own], "shape": self._shape})
        answer = connection.receive(left + _ANSWER_SECONDS, stopped)
        self._require(answer, "met")
        self.names[0] = str(answer["met"])

    def _other_program(self, why: str) -> SetupError:
        return SetupError(
            f"--master-addr {self.address} port {self.port}: what answers there is not this version of petrun: {why}",
            hint="All hosts need the same petrun, and a --master-port that no other program uses.",
        )
