"""`petrun ranktable`: check a table, explain it, make one, or convert it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from petrun import console
from petrun.cluster.rank_table import read as reading
from petrun.cluster.rank_table.dump import table_text
from petrun.cluster.rank_table.make import TableOptions, convert, device_ips, make
from petrun.cluster.rank_table.start_paths import ABOUT, START_PATHS, processes
from petrun.cluster.rank_table.table import PRODUCTS, RankTable, SuperPod, Version
from petrun.config.commands.rank_table import (
    ConvertTableSettings,
    LintSettings,
    MakeSettings,
    ShowSettings,
    WrittenTable,
    pairs,
)
from petrun.tensors.output import write_new


def lint(settings: LintSettings) -> bool:
    """Print everything that is wrong with a table. Returns whether it can be used. Without --card the cards may be any that the
    table's version is for. Raises SetupError for a file that is not JSON.
    """
    path, table = settings.file, Path(settings.file).expanduser()
    if settings.wait:
        reading.wait(table, settings.wait, console.print_to_stderr)
    product = None if settings.card is None else PRODUCTS[settings.card.lower()]
    found, problems = reading.examine(table, product, for_msrun=settings.start == "msrun-table")
    if (named := reading.name_problem(table)) is not None:
        problems = (named, *problems)
    fatal = [problem for problem in problems if problem.fatal]
    rest = [problem for problem in problems if not problem.fatal]
    for name, some in (("errors", fatal), ("warnings", rest)):
        if some:
            console.print(f"{name}:\n{reading.listed(some)}")
    if fatal or found is None:
        console.print(f"\n{path}: cannot be used. {reading.way_out(fatal)}")
        return False
    console.print(f"{path}: {found}: {'usable; see the warnings' if rest else 'good'}")
    return True


def show(settings: ShowSettings) -> None:
    """Print which process gets which rank. Raises SetupError for a wrong table, or a host that it does not have."""
    path, host = settings.file, settings.host
    start = next(one for one in START_PATHS if one == settings.start)
    found = reading.read_rank_table(path)
    server = None if host is None else found.server(host)
    console.print(f"{path}: {found}")
    console.print(f"start-up path: {ABOUT[start]}\n")
    rows: list[tuple[str, ...]] = [
        ("server", "process", "DEVICE_ID", "RANK_ID at start", "rank after init", "device_ip")
    ]
    cards = [card for one in found.servers for card in one.cards]
    for process, card in zip(processes(found, start), cards, strict=True):
        if server is None or process.server == server.id:
            # Without the table, only the order assigns a process to a card.
            ip = card.device_ip if start == "ranktable" else None
            numbers = (process.number, process.device, process.first_rank, process.rank)
            rows.append((process.server, *map(str, numbers), ip or "-"))
    console.print(console.columns(rows))
    if start == "ranktable":
        console.print(
            f"\nEach process has RANK_TABLE_FILE={Path(path).expanduser().absolute()} in its environment as well."
        )
        console.print("`petrun train ... --rank-table FILE` starts those of the host that it runs on.")
    console.print(f"\nOther start-up paths: --start {' or --start '.join(p for p in START_PATHS if p != start)}")


def make_table(settings: MakeSettings) -> None:
    """Write a table for these hosts, or print it. Raises ConfigError, SetupError or OutputError."""
    hosts, devices, extra = list(settings.hosts), settings.device_numbers(), _extra(settings, settings.device_ips)
    hccn = dict(pairs("--hccn", settings.hccn, "HOST=FILE"))
    if hccn:
        files = {host: Path(name).expanduser() for host, name in hccn.items()}
        ips = device_ips(hosts, devices, files)
        extra = replace(extra, device_ips=ips)
    made = make(hosts, devices, _version(settings.version), extra)
    _give(made, settings, [Path(name) for name in hccn.values()], table_text(made))


def convert_table(settings: ConvertTableSettings) -> None:
    """Write a table in another version, or with pod_ip, and print what is left out. Raises SetupError, ConfigError or OutputError."""
    extra = _extra(settings, settings.device_ips)
    before, source = reading.read_source(settings.file)
    after, lost = convert(before, before.version if settings.to is None else _version(settings.to), extra)
    _give(after, settings, [], table_text(after, source.content, lost))
    if lost or source.lost:
        console.print_to_stderr(
            f"left out, as version {after.version} has no place for it: {', '.join((*source.lost, *lost))}"
        )


def _version(text: str) -> Version:
    """Return a version that the settings have checked."""
    return "1.2" if text == "1.2" else "1.0"


def _extra(settings: WrittenTable, device_ips: Sequence[str]) -> TableOptions:
    """Return what the flags say about the cards. Raises ConfigError."""
    return TableOptions(
        pod_ips=list(settings.pod_ips),
        super_pods=[SuperPod(name, tuple(servers)) for name, servers in settings.pods()],
        super_device_ids=list(settings.super_device_ids),
        device_ips=list(device_ips),
    )


def _give(made: RankTable, settings: WrittenTable, inputs: list[Path], text: str) -> None:
    if settings.out is None:
        console.print(text.rstrip("\n"))
    else:
        write_new("--out", settings.out, text, settings.force, inputs)
        console.print(f"wrote {settings.out}: {made}")
