"""Which versions of MindSpore, CANN and the driver go together, each with its source.

The versions of CANN that a MindSpore takes are read from the installed MindSpore itself, whose check at the start of Ascend compares the
first two numbers with a list of its own (mindspore/run_check/_check_version.py, AscendEnvChecker): 2.10.0 names 8.2, 8.3, 8.5, 9.0 and 9.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MADE_FOR = {
    # Ascend's installer: gitcode.com, ascend-deployer, ascend_deployer/downloader/version_match.json.
    "2.7.2": "8.5.0",
    # The version of CANN that the wheel's own operators are built against: lib/plugin/ascend/custom_ascendc_910b/version.info.
    "2.10.0": "9.1.0",
}
"""Version of MindSpore -> the version of CANN that it was released with."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The drivers (Ascend HDK) of a version of CANN."""

    released: str
    """The one that was released with it."""
    least: str
    """The oldest that its release notes name."""
    firmware: str
    """The firmware in the same release of Ascend HDK, by the name of its package (Ascend-hdk-910b-npu-firmware_VERSION.run)."""
    source: str


DRIVERS = {
    "8.2": Driver(
        released="25.2.0",
        least="24.1.RC2",
        firmware="7.7.0.6.236",
        source="hiascend.com, MindIE 2.1.RC1, release notes, version compatibility",
    ),
    "8.3": Driver(
        released="25.3.RC1",
        least="24.1.0",
        firmware="7.8.0.2.212",
        source="hiascend.com, MindSDK 7.2.RC1, release notes, version compatibility",
    ),
    "8.5": Driver(
        released="25.5.0",
        least="25.0.RC1",
        firmware="7.8.0.5.216",
        source="hiascend.com, MindSDK 7.3.0, release notes, version compatibility",
    ),
}
"""First two numbers of CANN's version -> its drivers. Of later versions no list was found."""


def table() -> list[list[str]]:
    """Return what goes together as rows of cells, the first of them the headings."""
    rows = [["CANN", "MindSpore", "driver (Ascend HDK)", "oldest driver", "firmware", "source"]]
    lines = sorted({*DRIVERS, *(first_two(version) for version in MADE_FOR.values())}, key=order)
    for line in lines:
        made = [mindspore for mindspore, cann in MADE_FOR.items() if first_two(cann) == line]
        known = DRIVERS.get(line)
        cells = (
            [known.released, known.least, known.firmware, known.source] if known else ["-", "-", "-", "no list found"]
        )
        rows.append([line, ", ".join(made) or "-", *cells])
    return rows


def first_two(version: str) -> str:
    """`8.5.0.1` and `8.2.RC1` -> 8.5 and 8.2."""
    found = re.match(r"\D*(\d+)\.(\d+)", version)
    return f"{found[1]}.{found[2]}" if found else version


def order(version: str) -> tuple[int, ...]:
    """Return numbers by which drivers are ordered: a release candidate comes before the release. `24.1.RC2` -> (24, 1, 0, 2)."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    candidate = re.search(r"rc(\d+)", version.lower())
    last = re.match(r"\d+\.\d+\.(\d+)", version)
    return (*numbers, 0 if candidate else 1, int(candidate[1]) if candidate else int(last[1]) if last else 0)
