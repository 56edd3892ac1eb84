"""`petrun doctor`: a line for each thing that petrun needs of this machine, and the command that mends what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict

from petrun import console
from petrun.cluster.doctor import cards, machine, software
from petrun.cluster.doctor.finding import Finding
from petrun.config.commands.doctor import DoctorSettings
from petrun.config.load import cache_folder
from petrun.errors import SetupError

_WORDS = {"ok": "ok", "note": "note", "blocks": "BLOCKS"}


def run(settings: DoctorSettings) -> list[Finding]:
    """Print the findings, as lines or as JSON, and return them. Raises SetupError where one of them blocks."""
    found = []
    for each in examine(asked=settings.device == "ascend"):
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
    return found


def examine(*, asked: bool) -> Iterator[Finding]:
    """Yield all findings. `asked`: the user means to train on Ascend cards, so that what is missing for them blocks."""
    yield software.python()
    yield from software.packages()
    found, failed = software.probe()
    yield from software.mindspore(found, failed)
    yield cards.cann(os.environ, found.get("mindspore", ""), found.get("cann", []), asked)
    yield from cards.driver(os.environ, asked)
    yield from cards.cards(asked)
    yield from machine.machine(cache_folder(), os.environ)


def _line(each: Finding) -> str:
    mend = f"\n{'':<20}mend it: {each.mend}" if each.mend else ""
    return f"{_WORDS[each.verdict]:<8}{each.name:<12}{each.text}{mend}"
