"""Write the receipt as text for the terminal."""

from __future__ import annotations

import json
import math
from statistics import median

from petrun.console import table
from petrun.evaluate.compare import spell
from petrun.training.receipt.receipt import Receipt
from petrun.training.receipt.update_norms import UpdateNorm
from petrun.typing import JsonObject

_WIDTH = 100
_SETTLED = 2
"""Updates after which an unchanged parameter is reported: LoRA's A gets no gradient before B has changed."""


def receipt_text(receipt: Receipt, method: str) -> str:
    """Return the receipt without the scores on the evaluation data, which have a table of their own."""
    content = receipt.content
    lines: list[tuple[str, str]] = []
    if content["held_in"] is not None:
        lines.append(("held in", _held_in(content["held_in"])))
    lines += [("update norms", text) for text in _update_norms(receipt.norms)]
    lines.append(("steps", _steps(content["steps"])))
    lines.append(("targets", _targets(content["targets"], method)))
    lines += [(f"{kind} rows", _rows(found)) for kind, found in content["rows"].items()]
    lines += [("note", text) for text in _notes(receipt)]
    return "\n".join(["receipt", table(lines), *_texts(content["texts"])])


def _held_in(found: JsonObject) -> str:
    loss, count = found["loss"], len(found["rows"])
    return (
        f"loss {spell(loss['before'])} -> {spell(loss['after'])} on the same {count} training row{'s' * (count > 1)}; "
        f"the largest change of one is {spell(found['largest_change'])}"
    )


def _update_norms(norms: list[UpdateNorm]) -> list[str]:
    """Return a line for the updates of layers, one for other parameters of the delta, one for heads."""
    found = []
    updates = [each for each in norms if each.kind == "update"]
    if updates:
        found.append(f"{_count(updates, 'layer')}, ||dW|| / ||W||: {_spread(updates)}")
    for kind, what in (("trained", "parameter"), ("head", "parameter")):
        rest = [each for each in norms if each.kind == kind]
        if rest:
            where = " beside the delta" if kind == "head" else ""
            found.append(f"{_count(rest, what)}{where}, change / value at the start: {_spread(rest)}")
    return found


def _count(norms: list[UpdateNorm], what: str) -> str:
    return f"{len(norms)} {what}{'s' * (len(norms) > 1)}"


def _spread(norms: list[UpdateNorm]) -> str:
    """Return the smallest, median and largest ratio, and the norm of all."""
    total = math.sqrt(sum(each.norm**2 for each in norms))
    known = sorted((each for each in norms if each.ratio is not None), key=lambda each: each.ratio or 0.0)
    norm = f"norm {total:.3g} in all"
    if not known:
        return f"they began at 0; {norm}"
    first, last = known[0], known[-1]
    if first is last:
        return f"{first.ratio:.3g} ({first.name}); {norm}"
    middle = median(each.ratio or 0.0 for each in known)
    return f"{first.ratio:.3g} smallest ({first.name}), {middle:.3g} median, {last.ratio:.3g} largest ({last.name}); {norm}"


def _steps(found: JsonObject) -> str:
    left = found["done"] - found["updates"]
    out = f", {left} left out or overflowed" if left else ""
    return f"{found['updates']:,} updates{out}, largest gradient norm {found['largest_gradient_norm']:.3g}, {found['passes']:.4g} passes"


def _targets(found: JsonObject, method: str) -> str:
    if not found["layers"]:
        return f"{method} has no --target"
    asked = ", ".join(f"{name} (matches {count})" for name, count in found["asked"].items())
    matched = ", ".join(f"{role} {count}" for role, count in found["matched"].items())
    without = f", without {', '.join(found['excluded'])}" if found["excluded"] else ""
    return f"{asked or 'the default'}{without}: {found['layers']} layer{'s' * (found['layers'] > 1)} ({matched})"


def _rows(found: JsonObject) -> str:
    parts = [f"{found['read']:,} read, {found['used']:,} used"]
    if found["repeated"]:
        parts.append(f"{found['repeated']:,} more as repetitions")
    cut = sum(found["cut"].values())
    parts.append(f"{cut:,} cut" + (f" ({', '.join(found['cut'])})" if cut else ""))
    dropped = sum(found["dropped"].values())
    why = ", ".join(f"{count:,} {reason}" for reason, count in found["dropped"].items())
    parts.append(f"{dropped:,} dropped" + (f" ({why})" if dropped else ""))
    if found["nothing_left_to_learn"]:
        parts.append(f"{found['nothing_left_to_learn']:,} lost all they teach by the cut")
    if "supervised_share" in found:
        parts.append(f"{found['supervised_share']:.1%} of {found['tokens']:,} tokens supervised")
        ends = found["eos_rows"]
        parts.append(f"end of text supervised in {ends:,} rows" if ends else "end of text NOT supervised")
    return ", ".join(parts)


def _notes(receipt: Receipt) -> list[str]:
    content, found = receipt.content, []
    still = content["delta"]["unmoved"]
    if still and not receipt.failures and content["steps"]["updates"] > _SETTLED:
        found.append(f"{len(still)} parameters have not changed, such as {still[0]}: no gradient reaches them")
    if content["rows"]["train"].get("eos_rows") == 0:
        found.append("no row teaches the model to end: its answers may continue to the limit of tokens")
    return found


def _texts(found: list[JsonObject]) -> list[str]:
    """Return prompt, the data's answer, and the answers before and after, a line each."""
    lines = []
    for each in found:
        pairs = [("prompt", each["prompt"]), ("before", each["before"]), ("after", each["after"])]
        if each["reference"] is not None:
            pairs.insert(1, ("data", each["reference"]))
        lines += ["", table([(name, _short(text, name == "prompt")) for name, text in pairs])]
    return lines


def _short(text: str, tail: bool) -> str:
    """Return the text on one line: of a long prompt the end, of a long answer the beginning."""
    shown = json.dumps(text, ensure_ascii=False)
    if len(shown) <= _WIDTH:
        return shown
    return "..." + shown[-_WIDTH:] if tail else shown[:_WIDTH] + "..."
