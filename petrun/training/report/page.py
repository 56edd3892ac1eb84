"""Make one HTML page of runs: curves over each other, scores, receipts, samples, settings; nothing is loaded from anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from petrun import __version__
from petrun.console import bytes_text
from petrun.training.report.chart import COLOURS, WIDTH, Series, chart, finite
from petrun.training.run_record import RunRecord
from petrun.typing import JsonObject

_TEMPLATE = Path(__file__).with_name("page.html")
_MOST_UPDATES = 24
_TOO_LONG = 1200
OWN_TO_A_RUN = ("out.dir",)
"""Settings that differ in all runs and say nothing."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run on the page: its record, and the name and colour that tell it from the others."""

    run: RunRecord
    name: str
    index: int

    @property
    def style(self) -> str:
        return f"s{self.index % COLOURS}" + (" dashed" if self.index >= COLOURS else "")


def page(runs: Sequence[RunRecord]) -> str:
    """Return the page. Texts of rows and settings are escaped."""
    shown = [Shown(run=run, name=name, index=n) for n, (run, name) in enumerate(zip(runs, _names(runs), strict=True))]
    # Not the environment of prompt templates: this one escapes.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=", ".join(one.name for one in shown),
        shown=shown,
        summaries=[summary(one.run) for one in shown],
        differences=differences(runs),
        charts=charts(shown),
        scores=[_scores(one.run) for one in shown],
        receipts=[_receipt(one.run) for one in shown],
        samples=_samples(shown),
        settings=_settings(shown),
        version=__version__,
    )


def snippet(run: RunRecord) -> str:
    """Return the run as a piece of HTML for a notebook: its summary, its scores and its losses, in the notebook's own colours."""
    shown = Shown(run=run, name=run.name, index=0)
    scores = [(name, f"{before} to {after}") for name, before, after in _scores(run)]
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(what)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
        for what, text in [*summary(run), *scores]
    )
    losses = chart("training loss", [_of_steps(shown, "loss")], number)
    return f"<div style='max-width:{WIDTH}px'>{_SNIPPET_STYLE}<table>{rows}</table><div class='petrun-run'>{losses}</div></div>"


_SNIPPET_STYLE = (
    "<style>.petrun-run .grid{stroke:currentColor;opacity:.15}.petrun-run .tick{fill:currentColor;font:11px sans-serif}"
    ".petrun-run .line{fill:none;stroke:#3b8fd4;stroke-width:1.6}.petrun-run .dot{fill:#3b8fd4}</style>"
)


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """Return the name of each folder, with the folders above it where several runs have the same."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def summary(run: RunRecord) -> list[tuple[str, str]]:
    """Return (what, text) of the run in a few lines."""
    results, steps = run.results, run.steps
    done = int(steps[-1]["step"]) if steps else 0
    found = [
        ("state", "finished" if run.finished else f"not finished, at step {done:,}"),
        ("algorithm", run.algo),
        ("base", run.base or "the embedded base"),
        ("data", ", ".join(Path(str(each)).name for each in _list(run.settings.get("data.path")))),
    ]
    if results:
        trained, every = results["trainable_parameters"], results["all_parameters"]
        found += [
            ("trained", f"{trained:,} of {every:,} values ({trained / max(1, every):.3%})"),
            ("delta", bytes_text(results["delta_bytes"])),
            ("time", f"{results['seconds']:,.0f} s"),
        ]
    if steps:
        rate = sum(each["tokens"] for each in steps) / max(1e-9, sum(each["seconds"] for each in steps))
        found += [
            ("steps", f"{done:,}, {steps[-1]['epoch']:.4g} epochs"),
            ("tokens per second", f"{rate:,.0f} compiling included"),
        ]
        found.append(("training loss", f"{number(run.losses[0])} first, {number(run.losses[-1])} last"))
    return found


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def number(value: float | None) -> str:
    """Write a figure in four significant digits, one over 1,000 as a whole number."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return (setting, its value in each run) of the settings in which the runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = [(key, [spelt(run.settings.get(key)) for run in runs]) for key in keys if key not in OWN_TO_A_RUN]
    return [(key, values) for key, values in found if len(set(values)) > 1]


def spelt(value: object) -> str:
    """Write the value of a setting."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def charts(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Return (title, SVG) of every curve that any run has: of the steps, then of each metric of the evaluations."""
    kinds = [
        ("training loss", "loss"),
        ("learning rate", "lr"),
        ("gradient norm", "grad_norm"),
        ("tokens per second", "tokens_per_second"),
        ("memory in MiB, the most so far", "memory"),
    ]
    drawn = [
        (title, chart(title, [_of_steps(one, key) for one in shown], number, from_zero=key == "memory"))
        for title, key in kinds
    ]
    metrics = dict.fromkeys(name for one in shown for each in one.run.evaluations for name in each["evaluation"])
    for metric in metrics:
        drawn.append((f"evaluation: {metric}", chart(metric, [_of_evaluations(one, metric) for one in shown], number)))
    return [(title, svg) for title, svg in drawn if svg]


def _of_steps(one: Shown, key: str) -> Series:
    # Throughput of the first step is that of the compiler.
    steps = one.run.steps[1:] if key == "tokens_per_second" and len(one.run.steps) > 1 else one.run.steps
    points = finite([(each["step"], each.get(key)) for each in steps])
    if key == "memory":
        points = [(step, count / 2**20) for step, count in points]
    return Series(name=one.name, points=points, index=one.index)


def _of_evaluations(one: Shown, metric: str) -> Series:
    points = finite([(each["step"], each["evaluation"].get(metric)) for each in one.run.evaluations])
    return Series(name=one.name, points=points, index=one.index, dots=True)


def _scores(run: RunRecord) -> list[tuple[str, str, str]]:
    names = dict.fromkeys((*run.before, *run.after))
    return [(name, number(run.before.get(name)), number(run.after.get(name))) for name in names]


def _receipt(run: RunRecord) -> JsonObject | None:
    """Return what the page says of a receipt; None for a run that has none."""
    receipt = run.receipt
    if not receipt:
        return None
    updates = [each for each in receipt["delta"]["layers"] if each["ratio"] is not None]
    largest = sorted(updates, key=lambda each: -each["ratio"])[:_MOST_UPDATES]
    top = max((each["ratio"] for each in largest), default=0.0) or 1.0
    return {
        "held_in": receipt["held_in"],
        "steps": receipt["steps"],
        "rows": receipt["rows"],
        "failures": receipt["failures"],
        "unmoved": receipt["delta"]["unmoved"],
        "updates": [(each["name"], number(each["ratio"]), 100 * each["ratio"] / top) for each in largest],
        "more": len(updates) - len(largest),
    }


def _samples(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the prompts of all receipts, each with the reference and what every run answered before and after."""
    found: dict[str, dict[str, Any]] = {}
    for one in shown:
        for each in one.run.receipt.get("texts", ()):
            sample = found.setdefault(
                each["prompt"],
                {"prompt": _cut(each["prompt"]), "reference": _cut(each["reference"]), "answers": []},
            )
            sample["answers"].append((one, _cut(each["before"]), _cut(each["after"])))
    return list(found.values())


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _TOO_LONG else f"{text[:_TOO_LONG]} ..."


def _settings(shown: Sequence[Shown]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (setting, (value, origin) in each run), those first that some run was given."""
    keys = dict.fromkeys(key for one in shown for key in one.run.settings)
    rows = [
        (key, [(spelt(one.run.settings.get(key)), one.run.origins.get(key, "default")) for one in shown])
        for key in keys
    ]
    given = [row for row in rows if any(origin != "default" for _, origin in row[1])]
    return [*given, *(row for row in rows if row not in given)]
