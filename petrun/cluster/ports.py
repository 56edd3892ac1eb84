"""Find a free port for the scheduler, or raise an error before anything is started.

MindSpore would wait its full cluster timeout for workers that connect to another program's port.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from petrun.errors import SetupError

LOCAL = "127.0.0.1"


def resolve(host: str) -> str:
    """Return the IP address of a host name or address, IPv4 where it has one. Raises SetupError."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise SetupError(
            f"--master-addr {host}: no such host", hint="Give the IP address of the host with --host-rank 0."
        ) from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def free_port(address: str = LOCAL) -> int:
    """Return a port that nobody listens on now."""
    with _socket(address) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def check_port(address: str, port: int) -> None:
    """Raises SetupError where the scheduler could not listen: the port is taken, or the address is not this host's."""
    with _socket(address) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise SetupError(
                    f"--master-addr {address} is no address of this host",
                    hint="Host rank 0 runs the scheduler: --host-rank 0 belongs on the host that owns this address.",
                ) from error
            if error.errno == errno.EADDRINUSE:
                raise SetupError(
                    f"--master-port {port}: in use on {address}",
                    hint="Another job may be running. Give a free port; on one host, leave --master-port out and petrun finds one.",
                ) from error
            raise SetupError(f"--master-port {port}: {error.strerror}", hint="Give a port above 1023.") from error


def listen(address: str, port: int, backlog: int) -> socket.socket:
    """Return a server's socket. Raises OSError."""
    listener = _socket(address)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def is_local(address: str) -> bool:
    """Return whether this host owns the address."""
    with suppress(OSError), _socket(address) as probe:
        probe.bind((address, 0))
        return True
    return False


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
