"""Write a run's plan as text for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from petrun.console import bytes_text, columns, table
from petrun.training import plan_text
from petrun.training.planning.fit import Proposal
from petrun.training.planning.run_plan import LayerGroup, RunPlan, batches_of, settings_of

_WIDEST = 60
_MOST_GROUPS = 12


def text_of(plan: RunPlan) -> str:
    """Return the plan: what the run's own plan says, targets, layout, compile time and files; the first rows; every setting."""
    resolved = plan.resolved
    own = plan_text.plan_lines(resolved, plan.assembled, plan.trainable, plan.memory_line)
    lines: list[tuple[str, str]] = []
    for name, text in own:
        lines.append((name, text))
        if name == "delta":
            lines += [("targets" if not n else "", _group(group)) for n, group in enumerate(plan.groups[:_MOST_GROUPS])]
            more = len(plan.groups) - _MOST_GROUPS
            lines += [("", f"and {more} more kinds of layers")] if more > 0 else []
        if name == "shapes":
            lines.append(("compile", _compile(plan)))
        if name == "steps":
            lines.append(("batch", _batch(plan)))
    folder, files = plan_text.files_of(resolved)
    lines += [
        ("layout", _layout(plan)),
        ("files", f"{folder}: {', '.join(files)}"),
        ("disk", f"{bytes_text(plan.disk['free'])} free, {bytes_text(plan.disk['needed'])} needed"),
    ]
    return f"{table(lines)}\n\n{plan_text.first_rows(resolved)}\n\n{_settings(plan)}"


def _group(group: LayerGroup) -> str:
    size = "" if group.inputs is None else f", each {group.inputs:,} -> {group.outputs:,}"
    return f"{group.pattern}: {group.count} layer{'s' * (group.count > 1)}{size}, {group.trained:,} trained in each"


def _compile(plan: RunPlan) -> str:
    return f"about {plan.compile_seconds:.0f} s for the step on two quiet cores at the first start; later starts load its graphs"


def _batch(plan: RunPlan) -> str:
    found = batches_of(plan.resolved)
    share = found["supervised_share"]
    learned = f", {share:.1%} of them supervised" if share and plan.resolved.sources.train.task != "classify" else ""
    return (
        f"{found['rows_per_step']:,} rows and about {found['tokens_per_step']:,.0f} tokens a step{learned}; "
        f"{found['tokens']:,.0f} tokens in all"
    )


def _layout(plan: RunPlan) -> str:
    layout, device = plan.resolved.layout, plan.resolved.device
    if layout.world == 1:
        return f"one process on the {device.target}"
    each = "card" if device.target == "ascend" else "core"
    return f"{layout}: {layout.world} processes, one a {each}; petrun train --cards {layout.world} starts them"


def _settings(plan: RunPlan) -> str:
    """Return every setting with its value and origin: those that were given or inferred, then the defaults."""
    found = [(key, _short(each["value"]), each["origin"]) for key, each in settings_of(plan.resolved.settings).items()]
    given = [row for row in found if row[2] != "default"]
    defaults = [row for row in found if row[2] == "default"]
    return columns([("setting", "value", "set by"), *given, *defaults])


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def proposals_text(found: Sequence[Proposal], plan: RunPlan, available: int) -> str:
    """Return what fits into so much memory."""
    if plan.needed is None:
        return f"fit into {bytes_text(available)}: not known, {plan.unknown}"
    fits = plan.needed.total <= available
    head = f"fit into {bytes_text(available)}: " + (
        f"as it is, with {bytes_text(available - plan.needed.total)} to spare"
        if fits
        else "not as it is; with one of these"
        if found
        else "no batch, length, recompute or layout does; train less of it"
    )
    return "\n".join([head, *(f"  {each.flags}\n    {bytes_text(each.bytes)}: {each.why}" for each in found)])
