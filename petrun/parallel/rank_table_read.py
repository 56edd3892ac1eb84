"""A rank table from its file, checked in full."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from petrun.errors import SetupError
from petrun.parallel.rank_table import Problem, RankTable
from petrun.parallel.rank_table_fields import build, load_json
from petrun.parallel.rank_table_rules import check, check_msrun


def examine(path: Path) -> tuple[RankTable | None, tuple[Problem, ...]]:
    """Read a table and collect everything that is wrong with it; None where too little of it could be read.

    Raises SetupError only where there is no JSON object to look at.
    """
    table, problems = build(load_json(path))
    if table is not None:
        problems = [*problems, *check(table)]
    return table, tuple(sorted(problems, key=lambda problem: not problem.fatal))


def read_rank_table(path: str | Path, *, for_msrun: bool = False) -> RankTable:
    """A table with nothing fatal in it. `for_msrun`: as msrun --rank_table_file takes it, which needs pod_ip.

    Raises SetupError with every problem found, each with its server and device.
    """
    place = Path(path).expanduser()
    table, problems = examine(place)
    if table is not None and for_msrun:
        problems = (*(p for p in problems if p.fatal), *check_msrun(table, fatal=True))
    wrong = [problem for problem in problems if problem.fatal]
    if wrong or table is None:
        raise SetupError(f"rank table {path}:\n{listed(wrong)}", hint=way_out(wrong))
    return table


def listed(problems: Iterable[Problem]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def way_out(problems: Iterable[Problem]) -> str:
    """What mends a table, of the commands that there are."""
    if any("initializing" in problem.text for problem in problems):
        return "Wait until the cluster's scheduler has filled it in, then read it again."
    return "`petrun ranktable make` writes a new one; `petrun ranktable convert` adds pod_ip and super pods."
