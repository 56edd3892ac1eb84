"""`petrun inspect` and `petrun algorithms`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.options import argument, option


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """The file or folder that is looked at."""

    path: str = argument(
        "A delta, a base, a run folder, a peft folder, a checkpoint or a strategy file.", choices=run_choices
    )
    tensors: bool = option("--tensors", "List every tensor, not only the first ones.", default=False)
    as_json: bool = option("--json", "Print one JSON object.", default=False)


def algorithm_choices() -> list[str]:
    """Names of the delta algorithms."""
    from petrun.config.flags import method_names

    return method_names()


@dataclass(frozen=True, kw_only=True)
class AlgorithmsSettings:
    """The algorithm whose settings are listed; None: all algorithms are."""

    name: str | None = argument(
        "One of them, or several joined by +: its settings and their defaults.",
        default=None,
        choices=algorithm_choices,
    )
    as_json: bool = option(
        "--json", "Print one JSON object by name: what it is, papers, rate, settings.", default=False
    )
