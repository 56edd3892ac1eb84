"""`petrun ranktable lint|show|make|convert`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from petrun.cli.options import Text, Texts, Whole, option, split_list
from petrun.cluster.rank_table.start_paths import START_PATHS
from petrun.cluster.rank_table.table import PRODUCTS, VERSIONS
from petrun.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from petrun.cluster.rank_table.make import TableOptions

app = typer.Typer(
    help="Rank tables of Ascend clusters, v1.0 and v1.2: check one, explain it, make one, convert it.",
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(help="A rank table: JSON, such as hccl.json.")]
Out = Annotated[Text, option("--out", "Write to this file instead of printing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out.")]
PodIps = Annotated[
    Text,
    option(
        "--pod-ips",
        "pod_ip of every server, comma-separated, for msrun --rank_table_file; `server_id`: those that the ids are.",
    ),
]
SuperPods = Annotated[
    Texts, option("--super-pod", "v1.2: a super pod and its servers, ID=HOST,HOST. Repeatable.", metavar="ID=HOSTS")
]
SuperIds = Annotated[
    Text, option("--super-device-ids", "v1.2: super_device_id (SDID) of every card of all servers, in order.")
]


@app.command("lint")
def lint(
    file: File,
    card: Annotated[
        Text,
        option(
            "--card",
            "Which cards they are, as HCCL's rules differ: a1 (or 910), a2 (910b), a3 (910c). Default: a2 for version 1.0, a3 for 1.2.",
            autocompletion=lambda incomplete: [one for one in PRODUCTS if one.startswith(incomplete)],
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            help="How the job is to be started: msrun-table checks what msrun --rank_table_file needs as well.",
            autocompletion=lambda incomplete: [one for one in START_PATHS if one.startswith(incomplete)],
        ),
    ] = "ranktable",
    wait: Annotated[
        float | None,
        option("--wait", "Seconds to wait for a table whose status is initializing. HCCL waits 1800. Default 0."),
    ] = None,
) -> None:
    """Hold a rank table against the rules of HCCL: exit code 0 where it can be used, 1 where not."""
    if card is not None:
        _one_of("--card", card.lower(), PRODUCTS)
    _one_of("--start", start, START_PATHS)
    if wait is not None and not 0 <= wait <= 86400:
        raise ConfigError(f"--wait {wait:g}: must be between 0 and 86400 seconds")
    from petrun.commands import rank_table

    product = None if card is None else PRODUCTS[card.lower()]
    if not rank_table.lint(file, product, for_msrun=start == "msrun-table", wait_seconds=wait or 0):
        raise typer.Exit(1)


@app.command("show")
def show(
    file: File,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            help="How the job is started: ranktable (one process a card), msrun, or msrun-table (msrun --rank_table_file).",
            autocompletion=lambda incomplete: [one for one in START_PATHS if one.startswith(incomplete)],
        ),
    ] = "ranktable",
    host: Annotated[Text, option("--host", "Only this server: its id, an address of it, or its position.")] = None,
) -> None:
    """Say which process gets which rank on which server and device."""
    from petrun.commands import rank_table

    rank_table.show(file, cast(Any, _one_of("--start", start, START_PATHS)), host)


@app.command("make")
def make(
    hosts: Annotated[str, typer.Option("--hosts", help="Server ids (addresses), comma-separated, in rank order.")],
    cards_per_host: Annotated[Whole, option("--cards-per-host", "Cards of each host: devices 0 to N-1.")] = None,
    devices: Annotated[Text, option("--devices", "Physical devices of each host instead: 4,5,6,7.")] = None,
    device_ips: Annotated[Text, option("--device-ips", "Address of every card, host by host, comma-separated.")] = None,
    hccn: Annotated[
        Texts,
        option("--hccn", "Read a host's card addresses from its /etc/hccn.conf. Repeatable.", metavar="HOST=FILE"),
    ] = None,
    version: Annotated[
        str, typer.Option("--table-version", help="1.0, or 1.2 for super pods.", autocompletion=lambda: list(VERSIONS))
    ] = "1.0",
    super_pod: SuperPods = None,
    super_device_ids: SuperIds = None,
    pod_ips: PodIps = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """Make a rank table. Ranks follow the order of hosts and devices.

    petrun ranktable make --hosts 10.0.0.1,10.0.0.2 --cards-per-host 8 --hccn 10.0.0.1=a.conf --hccn 10.0.0.2=b.conf
    """
    _one_of("--table-version", version, VERSIONS)
    if hccn and device_ips:
        raise ConfigError("--hccn and --device-ips both give the cards' addresses", hint="Leave one of them out.")
    if (cards_per_host is None) == (devices is None):
        raise ConfigError("either --cards-per-host or --devices says which cards a host has", hint="Give one of them.")
    from petrun.commands import rank_table

    rank_table.make_table(
        split_list(hosts) or [],
        _devices(cards_per_host, devices),
        cast(Any, version),
        _extra(pod_ips, super_pod, super_device_ids, device_ips),
        dict(_pairs("--hccn", hccn, "HOST=FILE")),
        out,
        force,
    )


@app.command("convert")
def convert(
    file: File,
    to: Annotated[
        Text,
        option("--to", "Version to write: 1.0 or 1.2. Default: the file's.", autocompletion=lambda: list(VERSIONS)),
    ] = None,
    super_pod: SuperPods = None,
    super_device_ids: SuperIds = None,
    device_ips: Annotated[Text, option("--device-ips", "device_ip of every card of all servers, in order.")] = None,
    pod_ips: PodIps = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """Convert a rank table between v1.0 and v1.2 or from the group_list format before them, or add pod_ip.

    What the file does not have is asked for, never invented; keys that nothing knows stay; what is left out is said on standard error.
    """
    if to is not None:
        _one_of("--to", to, VERSIONS)
    from petrun.commands import rank_table

    extra = _extra(pod_ips, super_pod, super_device_ids, device_ips)
    rank_table.convert_table(file, cast(Any, to), extra, out, force)


def _one_of(flag: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        raise ConfigError(f"{flag} {value}: unknown. {did_you_mean(value, known)}")
    return value


def _devices(count: int | None, listed: str | None) -> list[int]:
    if listed is None:
        if not 0 < (count or 0) <= 1024:
            raise ConfigError(f"--cards-per-host {count}: must be between 1 and 1024")
        return list(range(count or 0))
    parts = split_list(listed) or []
    wrong = [part for part in parts if not (part.isascii() and part.isdecimal())]
    if wrong or not parts:
        raise ConfigError(f"--devices {listed}: must be whole numbers, such as 0,1,2,3")
    return [int(part) for part in parts]


def _pairs(flag: str, texts: list[str] | None, form: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts or []]
    wrong = [f"{a}{sign}{b}" for a, sign, b in pairs if not (a and sign and b)]
    if wrong:
        raise ConfigError(f"{flag} {wrong[0]}: is not of the form {form}")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ConfigError(f"{flag}: {max(names, key=names.count)} is given twice")
    return [(name, value) for name, _, value in pairs]


def _extra(
    pod_ips: str | None, super_pod: list[str] | None, super_ids: str | None, device_ips: str | None
) -> TableOptions:
    from petrun.cluster.rank_table.make import TableOptions
    from petrun.cluster.rank_table.table import SuperPod

    pods = _pairs("--super-pod", super_pod, "ID=HOST,HOST")
    return TableOptions(
        pod_ips=split_list(pod_ips) or [],
        super_pods=[SuperPod(name, tuple(split_list(hosts) or [])) for name, hosts in pods],
        super_device_ids=split_list(super_ids) or [],
        device_ips=split_list(device_ips) or [],
    )
