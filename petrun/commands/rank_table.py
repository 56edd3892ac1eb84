"""`petrun ranktable`: check a table, explain it, make one, or convert it."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.cluster.rank_table.dump import table_text
from petrun.cluster.rank_table.make import TableOptions, convert, device_ips, make
from petrun.cluster.rank_table.read import (
    examine,
    listed,
    name_problem,
    read_rank_table,
    read_source,
    wait,
    way_out,
)
from petrun.cluster.rank_table.start_paths import ABOUT, START_PATHS, StartPath, processes
from petrun.cluster.rank_table.table import Product, RankTable, Version
from petrun.console import print_to_stderr
from petrun.tensors.output import write_new


def lint(path: str, product: Product | None = None, *, for_msrun: bool = False, wait_seconds: float = 0) -> bool:
    """Print everything that is wrong with a table; True where it can be used. `product`: which cards they are; None: any of those that
    its version is for. `for_msrun`: as msrun --rank_table_file takes it. Raises SetupError for what is no JSON.
    """
    file = Path(path).expanduser()
    if wait_seconds:
        wait(file, wait_seconds, print_to_stderr)
    found, problems = examine(file, product, for_msrun=for_msrun)
    if (named := name_problem(file)) is not None:
        problems = (named, *problems)
    fatal = [problem for problem in problems if problem.fatal]
    rest = [problem for problem in problems if not problem.fatal]
    for name, some in (("errors", fatal), ("warnings", rest)):
        if some:
            console.print(f"{name}:\n{listed(some)}")
    if fatal or found is None:
        console.print(f"\n{path}: cannot be used. {way_out(fatal)}")
        return False
    console.print(f"{path}: {found}: {'usable; see the warnings' if rest else 'good'}")
    return True


def show(path: str, start: StartPath, host: str | None) -> None:
    """Print which process gets which rank. Raises SetupError for a table that is wrong, or a host that it does not have."""
    found = read_rank_table(path)
    server = None if host is None else found.server(host)
    console.print(f"{path}: {found}")
    console.print(f"start-up path: {ABOUT[start]}\n")
    rows: list[tuple[str, ...]] = [
        ("server", "process", "DEVICE_ID", "RANK_ID at start", "rank after init", "device_ip")
    ]
    cards = [card for one in found.servers for card in one.cards]
    for process, card in zip(processes(found, start), cards, strict=True):
        if server is None or process.server == server.id:
            # Without the table, nothing ties a process to a card of it but the order.
            ip = card.device_ip if start == "ranktable" else None
            numbers = (process.number, process.device, process.first_rank, process.rank)
            rows.append((process.server, *map(str, numbers), ip or "-"))
    console.print(_columns(rows))
    if start == "ranktable":
        console.print(
            f"\nEach process has RANK_TABLE_FILE={Path(path).expanduser().absolute()} in its environment as well."
        )
        console.print("`petrun train ... --rank-table FILE` starts those of the host that it runs on.")
    others = [one for one in START_PATHS if one != start]
    console.print(f"\nOther start-up paths: --start {' or --start '.join(others)}")


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def make_table(
    hosts: list[str],
    devices: list[int],
    version: Version,
    extra: TableOptions,
    hccn: dict[str, str],
    out: str | None,
    force: bool,
) -> None:
    """Write a table for these hosts, or print it. Raises ConfigError, SetupError or OutputError."""
    if hccn:
        files = {host: Path(name).expanduser() for host, name in hccn.items()}
        ips = device_ips(hosts, devices, files)
        extra = TableOptions(
            pod_ips=extra.pod_ips, super_pods=extra.super_pods, super_device_ids=extra.super_device_ids, device_ips=ips
        )
    made = make(hosts, devices, version, extra)
    _give(made, out, force, [Path(name) for name in hccn.values()], table_text(made))


def convert_table(path: str, version: Version | None, extra: TableOptions, out: str | None, force: bool) -> None:
    """Write a table in another version, or with pod_ip; what is left out of it is said. Raises SetupError, ConfigError or OutputError."""
    before, source = read_source(path)
    after, lost = convert(before, version or before.version, extra)
    _give(after, out, force, [], table_text(after, source.content, lost))
    if lost or source.lost:
        print_to_stderr(f"left out, as version {after.version} has no place for it: {', '.join((*source.lost, *lost))}")


def _give(made: RankTable, out: str | None, force: bool, inputs: list[Path], text: str) -> None:
    if out is None:
        console.print(text.rstrip("\n"))
        return
    write_new("--out", out, text, force, inputs)
    console.print(f"wrote {out}: {made}")
