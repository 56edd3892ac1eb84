"""`petrun doctor`: a line for each thing that petrun needs of this machine, and the command that mends what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from petrun import console
from petrun.cluster.doctor import cards, machine, reach, software
from petrun.cluster.doctor.finding import Finding
from petrun.cluster.doctor.releases import table
from petrun.cluster.launch import JobOutput
from petrun.cluster.rank_table.read import read_rank_table
from petrun.cluster.rank_table.start import own_server
from petrun.cluster.ranks import DEFAULT_PORT
from petrun.commands import launch
from petrun.config.commands.doctor import DoctorSettings
from petrun.config.commands.train import TrainSettings
from petrun.config.load import cache_folder
from petrun.errors import SetupError

_WORDS = {"ok": "ok", "note": "note", "blocks": "BLOCKS"}


def run(settings: DoctorSettings) -> int:
    """Print the findings, as lines or as JSON; then, where ranks are asked for, start them for a sum. Returns the exit code of the ranks.

    Raises SetupError where a finding blocks.
    """
    if settings.versions:
        _print_versions(settings.as_json)
        return 0
    found = []
    for each in examine(settings):
        found.append(each)
        if not settings.as_json:
            console.print(_line(each))
    if settings.as_json:
        console.print(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
    if blocking := [each for each in found if each.verdict == "blocks"]:
        raise SetupError(
            f"doctor: {len(blocking)} of {len(found)} checks block: {', '.join(each.name for each in blocking)}",
            hint="\n".join(f"{each.name}: {each.mend}" for each in blocking),
        )
    return _sum(settings) if settings.starts_ranks else 0


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """Yield all findings. With `device` ascend the user means to train on cards, so that what is missing for them blocks."""
    asked = settings.device == "ascend"
    yield software.python()
    yield from software.packages()
    found, failed = software.probe()
    yield from software.mindspore(found, failed)
    yield cards.cann(os.environ, found.get("mindspore", ""), found.get("cann", []), asked)
    yield from cards.driver(os.environ, asked)
    yield from cards.cards(asked)
    yield from machine.machine(cache_folder(), os.environ)
    port = settings.master_port or DEFAULT_PORT
    yield from reach.hosts(settings.reach or (), port)
    if settings.rank_table is not None:
        yield from _rank_table(settings, port)


def _rank_table(settings: DoctorSettings, port: int) -> Iterator[Finding]:
    file = str(settings.rank_table)
    read = read_rank_table(file)
    place = None if settings.host_rank is None else str(settings.host_rank)
    own = read.server(place, "--host-rank") if place is not None else own_server(read, file)
    yield Finding(name="rank table", verdict="ok", text=f"{read}; this host is {own.id}")
    yield from reach.hosts([server.host_ip or server.id for server in read.servers if server is not own], port)
    yield from reach.cards(read, own)
    command = f"petrun train --rank-table {file} --preflight --out FOLDER"
    yield Finding(name="all-reduce", verdict="ok", text=f"to try it on the cards, run on every server: {command}")


def _sum(settings: DoctorSettings) -> int:
    """Start the ranks of a preflight, which compare their hosts and add a sum. Returns their exit code."""
    settled = {"device": settings.device, "out.dir": settings.out}
    flags = {key: (f"--{key.removesuffix('.dir')}", value) for key, value in settled.items() if value is not None}
    words = [word for flag, value in flags.values() for word in (flag, str(value))]

    def rank_line(added: Sequence[str]) -> list[str]:
        return ["train", *added, *words, "--preflight"]

    job = TrainSettings(
        flags=flags,
        preflight=True,
        cards=settings.cards,
        hosts=settings.hosts,
        host_rank=settings.host_rank,
        master_addr=settings.master_addr,
        master_port=settings.master_port,
    )
    show = console.print_to_stderr if settings.as_json else console.print
    return launch.run(job, rank_line, JobOutput(out=show, err=console.print_to_stderr))


def _print_versions(as_json: bool) -> None:
    needs = [(each.name, str(each.specifier)) for each in software.needs() if each.name in ("mindspore", "numpy")]
    head, *rows = table()
    if as_json:
        lines = [dict(zip(head, row, strict=True)) for row in rows]
        console.print(json.dumps({"python": software.python_text(), **dict(needs), "CANN": lines}, indent=2))
        return
    console.print(console.table([("Python", software.python_text()), *needs]))
    console.print(f"\n{console.columns([head, *rows])}")


def _line(each: Finding) -> str:
    mend = f"\n{'':<20}mend it: {each.mend}" if each.mend else ""
    return f"{_WORDS[each.verdict]:<8}{each.name:<12}{each.text}{mend}"
