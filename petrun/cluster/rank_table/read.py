"""Read a rank table from its file, and check it in full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.cluster.rank_table.group_list import from_groups, is_grouped
from petrun.cluster.rank_table.parse import load_json, parse_table
from petrun.cluster.rank_table.rules import check
from petrun.cluster.rank_table.table import Problem, Product, RankTable
from petrun.errors import SetupError
from petrun.typing import JsonObject

HCCL_WAITS_SECONDS = 30 * 60
"""HCCL waits this long until a table's status is completed. It checks each second. Source: HCCL_RANKTABLE_TIMEOUT_S."""


@dataclass(frozen=True)
class TableSource:
    """A table in version 1.0 or 1.2, with the contents of its file."""

    content: JsonObject
    lost: tuple[str, ...] = ()
    """Keys of the format before 1.0 that it cannot hold."""


def examine(
    path: Path, product: Product | None = None, *, for_msrun: bool = False
) -> tuple[RankTable | None, tuple[Problem, ...]]:
    """Read a table and collect all its problems; the table is None where too little of it could be read.

    Raises SetupError only where there is no JSON object to look at.
    """
    table, problems, _ = _examine(path, product, for_msrun)
    return table, problems


def _examine(
    path: Path, product: Product | None, for_msrun: bool
) -> tuple[RankTable | None, tuple[Problem, ...], TableSource]:
    content: JsonObject | None = load_json(path)
    source = TableSource(content or {})
    problems: list[Problem] = []
    grouped = content is not None and is_grouped(content) and content.get("status") != "initializing"
    if grouped and content is not None:
        content, problems, lost = from_groups(content)
        source = TableSource(content or {}, lost)
    table: RankTable | None = None
    if content is not None:
        table, more = parse_table(content)
        problems += more
    if table is not None:
        table = replace(table, from_groups=grouped)
        problems += check(table, product, for_msrun=for_msrun)
        if grouped:
            problems.append(
                Problem(
                    where="group_list", text="the format before version 1.0, which counts the ranks itself", fatal=False
                )
            )
    return table, tuple(_merge_warnings(sorted(problems, key=lambda problem: not problem.fatal))), source


def _merge_warnings(problems: Iterable[Problem]) -> list[Problem]:
    """Merge a warning that many devices share, such as one about an unknown key, into one line."""
    same: dict[Problem, list[Problem]] = {}
    for problem in problems:
        same.setdefault(problem if problem.fatal else replace(problem, where=""), []).append(problem)
    return [
        found[0] if len(found) == 1 else replace(found[0], where=f"{found[0].where} and {len(found) - 1} more")
        for found in same.values()
    ]


def read_rank_table(path: str | Path, *, for_msrun: bool = False) -> RankTable:
    """Return a table with nothing fatal in it. `for_msrun`: as msrun --rank_table_file takes it, which needs pod_ip.

    Raises SetupError with every problem found, each with its server and device.
    """
    return read_source(path, for_msrun=for_msrun)[0]


def read_source(path: str | Path, *, for_msrun: bool = False) -> tuple[RankTable, TableSource]:
    """Return a table with nothing fatal in it, and the contents of its file. Raises SetupError."""
    table, problems, source = _examine(Path(path).expanduser(), None, for_msrun)
    wrong = [problem for problem in problems if problem.fatal]
    if wrong or table is None:
        raise SetupError(f"rank table {path}:\n{listed(wrong)}", hint=way_out(wrong))
    return table, source


def wait(path: Path, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait until the cluster's scheduler has filled in the table, as HCCL does. The caller refuses a table that is still not filled in.

    Raises SetupError for a file that is not JSON.
    """
    until = time.monotonic() + seconds
    announced = False
    while load_json(path).get("status") == "initializing" and time.monotonic() < until:
        if not announced:
            tell(f"rank table {path}: status is initializing; waiting up to {seconds:g} s for it to be completed")
            announced = True
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))


def name_problem(path: Path) -> Problem | None:
    """Return the problem of a path: HCCL opens only a path that, links followed, ends in its only .json; else "". Source: CheckFilePath."""
    real_path = str(path.resolve())
    if real_path.find(".json") == len(real_path) - len(".json"):
        return None
    text = "HCCL opens no rank table whose path does not end in .json, or has .json in a folder's name too"
    return Problem(where=real_path, text=text, source="HCCL CheckFilePath")


def listed(problems: Iterable[Problem]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def way_out(problems: Iterable[Problem]) -> str:
    """Name the commands that correct such a table."""
    if any("initializing" in problem.text for problem in problems):
        return "Wait until the cluster's scheduler has filled it in, then read it again: `petrun ranktable lint --wait 1800`."
    return "`petrun ranktable make` writes a new one; `petrun ranktable convert` adds pod_ip and super pods."
