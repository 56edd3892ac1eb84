"""`petrun ranktable`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass

from petrun.cluster.rank_table.start_paths import START_PATHS
from petrun.cluster.rank_table.table import PRODUCTS, VERSIONS
from petrun.config.options import SettingField, argument, option, split_list
from petrun.errors import ConfigError, did_you_mean


def _file() -> SettingField:
    return argument("A rank table: JSON, such as hccl.json.")


def _start(text: str) -> SettingField:
    return option("--start", text, default="ranktable", choices=lambda: START_PATHS, shows_default=True)


@dataclass(frozen=True, kw_only=True)
class LintSettings:
    """The rank table that is checked, and for which start."""

    file: str = _file()
    card: str | None = option(
        "--card",
        "Which cards they are, as HCCL's rules differ: a1 (or 910), a2 (910b), a3 (910c). Default: a2 for version 1.0, a3 for 1.2.",
        choices=lambda: PRODUCTS,
    )
    start: str = _start("How the job is to be started: msrun-table checks what msrun --rank_table_file needs as well.")
    wait: float = option(
        "--wait",
        "Seconds to wait for a table whose status is initializing. HCCL waits 1800. Default 0.",
        default=0.0,
    )

    def __post_init__(self) -> None:
        if self.card is not None:
            _one_of("--card", self.card.lower(), PRODUCTS)
        _one_of("--start", self.start, START_PATHS)
        if not 0 <= self.wait <= 86400:
            raise ConfigError(f"--wait {self.wait:g}: must be between 0 and 86400 seconds")


@dataclass(frozen=True, kw_only=True)
class ShowSettings:
    """The rank table that is explained."""

    file: str = _file()
    start: str = _start(
        "How the job is started: ranktable (one process a card), msrun, or msrun-table (msrun --rank_table_file)."
    )
    host: str | None = option("--host", "Only this server: its id, an address of it, or its position.")

    def __post_init__(self) -> None:
        _one_of("--start", self.start, START_PATHS)


@dataclass(frozen=True, kw_only=True)
class WrittenTable:
    """What a rank table says beside its hosts and devices, and the file that it is written to."""

    super_pod: tuple[str, ...] = option(
        "--super-pod",
        "v1.2: a super pod and its servers, ID=HOST,HOST. Repeatable.",
        default=(),
        metavar="ID=HOSTS",
    )
    super_device_ids: tuple[str, ...] = option(
        "--super-device-ids",
        "v1.2: super_device_id (SDID) of every card of all servers, in order.",
        default=(),
        separated=True,
    )
    pod_ips: tuple[str, ...] = option(
        "--pod-ips",
        "pod_ip of every server, comma-separated, for msrun --rank_table_file; `server_id`: those that the ids are.",
        default=(),
        separated=True,
    )
    out: str | None = option("--out", "Write to this file instead of printing.")
    force: bool = option("--force", "Replace the file of --out.", default=False)

    def pods(self) -> list[tuple[str, list[str]]]:
        """(super pod, its servers). Raises ConfigError."""
        return [(name, split_list(hosts)) for name, hosts in pairs("--super-pod", self.super_pod, "ID=HOST,HOST")]


@dataclass(frozen=True, kw_only=True)
class MakeSettings(WrittenTable):
    """The hosts and devices of a new rank table."""

    hosts: tuple[str, ...] = option(
        "--hosts", "Server ids (addresses), comma-separated, in rank order.", default=MISSING, separated=True
    )
    cards_per_host: int | None = option("--cards-per-host", "Cards of each host: devices 0 to N-1.")
    devices: str | None = option("--devices", "Physical devices of each host instead: 4,5,6,7.")
    device_ips: tuple[str, ...] = option(
        "--device-ips", "Address of every card, host by host, comma-separated.", default=(), separated=True
    )
    hccn: tuple[str, ...] = option(
        "--hccn",
        "Read a host's card addresses from its /etc/hccn.conf. Repeatable.",
        default=(),
        metavar="HOST=FILE",
    )
    version: str = option(
        "--table-version",
        "1.0, or 1.2 for super pods.",
        default="1.0",
        choices=lambda: VERSIONS,
        shows_default=True,
    )

    def __post_init__(self) -> None:
        _one_of("--table-version", self.version, VERSIONS)
        if self.hccn and self.device_ips:
            raise ConfigError("--hccn and --device-ips both give the cards' addresses", hint="Leave one of them out.")
        if (self.cards_per_host is None) == (self.devices is None):
            raise ConfigError(
                "either --cards-per-host or --devices says which cards a host has", hint="Give one of them."
            )

    def device_numbers(self) -> list[int]:
        """Physical devices of each host. Raises ConfigError."""
        if self.devices is None:
            count = self.cards_per_host or 0
            if not 0 < count <= 1024:
                raise ConfigError(f"--cards-per-host {count}: must be between 1 and 1024")
            return list(range(count))
        parts = split_list(self.devices)
        wrong = [part for part in parts if not (part.isascii() and part.isdecimal())]
        if wrong or not parts:
            raise ConfigError(f"--devices {self.devices}: must be whole numbers, such as 0,1,2,3")
        return [int(part) for part in parts]


@dataclass(frozen=True, kw_only=True)
class ConvertTableSettings(WrittenTable):
    """The rank table that is converted, and the version it gets."""

    file: str = _file()
    to: str | None = option("--to", "Version to write: 1.0 or 1.2. Default: the file's.", choices=lambda: VERSIONS)
    device_ips: tuple[str, ...] = option(
        "--device-ips", "device_ip of every card of all servers, in order.", default=(), separated=True
    )

    def __post_init__(self) -> None:
        if self.to is not None:
            _one_of("--to", self.to, VERSIONS)


def pairs(flag: str, texts: tuple[str, ...], form: str) -> list[tuple[str, str]]:
    """`a=b` -> (a, b). Raises ConfigError for another form, or a name that is given twice."""
    found = [text.partition("=") for text in texts]
    wrong = [f"{a}{sign}{b}" for a, sign, b in found if not (a and sign and b)]
    if wrong:
        raise ConfigError(f"{flag} {wrong[0]}: is not of the form {form}")
    names = [name for name, _, _ in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{flag}: {max(names, key=names.count)} is given twice")
    return [(name, value) for name, _, value in found]


def _one_of(flag: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ConfigError(f"{flag} {value}: unknown. {did_you_mean(value, known)}")
