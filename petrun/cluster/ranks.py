"""Distribute the processes of a job over its hosts, and make the environment of each.

MindSpore's dynamic cluster has one scheduler, on the host with rank 0, to which every rank reports; it computes nothing.
The ranks of a host follow one another: host h of H has ranks h*K ... h*K+K-1 with K = cards / hosts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from petrun.cluster.ports import LOCAL
from petrun.errors import ConfigError

DEFAULT_PORT = 8118
"""MindSpore's own. On one host petrun finds a free one."""
_TIMEOUTS = {"MS_TOPO_TIMEOUT": "600", "MS_NODE_TIMEOUT": "30"}
"""Seconds in which all ranks must connect, and after which a silent rank counts as lost. The user's own settings stay."""
_OF_RANK = ("MS_NODE_ID", "RANK_ID", "DEVICE_ID")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The job's shape, and this host's position in it."""

    cards: int = 1
    hosts: int = 1
    host_rank: int = 0
    address: str = LOCAL
    """The address of the scheduler."""
    port: int | None = None
    """None: on one host, a free one."""

    @property
    def local(self) -> int:
        """Cards of this host."""
        return self.cards // self.hosts

    @property
    def ranks(self) -> range:
        """Ranks of this host."""
        return range(self.host_rank * self.local, (self.host_rank + 1) * self.local)


def make_cluster(
    cards: int | None, hosts: int | None, host_rank: int | None, address: str | None, port: int | None
) -> Cluster:
    """Return the shape that the flags ask for; None: not given. Raises ConfigError with every problem found."""
    problems = []
    for flag, value, least in (("--cards", cards, 1), ("--hosts", hosts, 1), ("--host-rank", host_rank, 0)):
        if value is not None and value < least:
            problems.append(f"{flag} {value}: must be at least {least}")
    if port is not None and not 0 < port < 65536:
        problems.append(f"--master-port {port}: must be between 1 and 65535")
    many = hosts or 1
    if not problems and many > 1:
        if cards is None or cards % many:
            given = "" if cards is None else f" {cards}"
            near = f" Try --cards {max(1, round((cards or many) / many)) * many}."
            problems.append(
                f"--cards{given}: must be a multiple of --hosts {hosts}: cards of all hosts together.{near}"
            )
        if host_rank is None:
            problems.append(f"--hosts {hosts}: needs --host-rank, 0 to {many - 1}, another one on each host")
        elif host_rank >= many:
            problems.append(f"--host-rank {host_rank}: must be below --hosts {hosts}")
        if address is None:
            problems.append(f"--hosts {hosts}: needs --master-addr, the address of the host with --host-rank 0")
    elif not problems:
        for flag, given_value in (("--host-rank", host_rank), ("--master-addr", address)):
            if given_value not in (None, 0):
                problems.append(f"{flag} {given_value}: there is only one host; it goes with --hosts")
    if problems:
        raise ConfigError(
            "\n".join(problems), hint="Example: --cards 16 --hosts 2 --host-rank 0 --master-addr 10.0.0.1"
        )
    if many > 1:
        return Cluster(
            cards=cards or many,
            hosts=many,
            host_rank=host_rank or 0,
            address=address or LOCAL,
            port=port or DEFAULT_PORT,
        )
    return Cluster(cards=cards or 1, port=port)


def rank_environment(base: Mapping[str, str], cluster: Cluster, rank: int, port: int) -> dict[str, str]:
    """Return the environment of this rank. One card alone is a plain process."""
    if cluster.cards == 1:
        return dict(base)
    return {
        **_common(base, cluster, port),
        "MS_ROLE": "MS_WORKER",
        "MS_NODE_ID": str(rank),
        "RANK_ID": str(rank),
        "DEVICE_ID": str(rank - cluster.ranks.start),
    }


def scheduler_environment(base: Mapping[str, str], cluster: Cluster, port: int) -> dict[str, str]:
    """Return the environment of the scheduler."""
    common = {key: value for key, value in _common(base, cluster, port).items() if key not in _OF_RANK}
    return {**common, "MS_ROLE": "MS_SCHED"}


def seconds_of(base: Mapping[str, str], name: str) -> float:
    """Return one of MindSpore's two time limits, as the ranks will have it: MS_TOPO_TIMEOUT or MS_NODE_TIMEOUT. Raises ConfigError."""
    given = base.get(name) or _TIMEOUTS[name]
    if not given.isdecimal() or int(given) == 0:
        raise ConfigError(f"{name} is {given!r}", hint="It is a number of seconds, at least 1.")
    return float(given)


def _common(base: Mapping[str, str], cluster: Cluster, port: int) -> dict[str, str]:
    return {
        **_TIMEOUTS,
        **host_environment(base, len(cluster.ranks)),
        "MS_WORKER_NUM": str(cluster.cards),
        "MS_SCHED_HOST": cluster.address,
        "MS_SCHED_PORT": str(port),
        "RANK_SIZE": str(cluster.cards),
    }


def host_environment(base: Mapping[str, str], ranks: int) -> dict[str, str]:
    """Return the environment that every rank of a host with this many gets, however it is started. The user's own settings stay."""
    return {**_level(base), **_threads(base, ranks), **base}


def _level(base: Mapping[str, str]) -> dict[str, str]:
    """Return the level of GLOG_v (2, warnings, where it is not set) for the log's back end as well: when a rank ends, MindSpore ignores
    GLOG_v and writes two lines of information. Warnings and errors stay."""
    level = base.get("GLOG_v", "2")
    if "MS_SUBMODULE_LOG_v" in base or level not in ("2", "3", "4"):
        return {}
    return {"GLOG_minloglevel": str(int(level) - 1)}


def _threads(base: Mapping[str, str], ranks: int) -> dict[str, str]:
    """Divide the cores of a host among its ranks; otherwise each would use all of them, and they would wait for each other."""
    return {} if ranks == 1 else {"OMP_NUM_THREADS": str(max(1, cores_here() // ranks))}


def cores_here() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
