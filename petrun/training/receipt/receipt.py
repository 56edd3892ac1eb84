"""Make the learning receipt: what a run has learned and from what, printed at its end and kept in results.json.

A run whose delta learned nothing ends with an error, after everything is saved: such a delta looks like any other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

import numpy as np

from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import DECODER_TASKS
from petrun.errors import TrainingError
from petrun.graph.freeze import Trainable
from petrun.inference.assembly import Assembled
from petrun.train.schedules import Schedule
from petrun.training.checkpointing.progress import Progress
from petrun.training.receipt.samples import EvalSnapshot, SampleEvaluator
from petrun.training.receipt.update_norms import FirstValues, UpdateNorm, unchanged, update_norms
from petrun.training.setup.sources import Sources
from petrun.training.setup.training_setup import TrainingSetup
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class ReceiptInputs:
    """Holds the inputs of a receipt."""

    assembled: Assembled
    trainable: Trainable
    sources: Sources
    schedule: Schedule
    compute_dtype: str
    seq_len: int
    first_values: FirstValues | None
    """None where ranks hold shards: their update norms are not measured."""
    progress: Progress

    @classmethod
    def of(cls, setup: TrainingSetup, first_values: FirstValues | None, progress: Progress) -> ReceiptInputs:
        return cls(
            assembled=setup.assembled,
            trainable=setup.trainable,
            sources=setup.resolved.sources,
            schedule=setup.resolved.schedule,
            compute_dtype=setup.resolved.device.compute_dtype,
            seq_len=setup.config.data.seq_len,
            first_values=first_values,
            progress=progress,
        )


@dataclass(frozen=True)
class Receipt:
    """Holds the entries of results.json about a run, and the signs that it learned nothing."""

    content: JsonObject
    after: dict[str, float]
    """Scores after the last step."""
    norms: list[UpdateNorm]
    failures: list[tuple[str, str]]
    """(what is wrong, its likely cause and what to do)."""

    def require_learned(self) -> None:
        """Raise TrainingError where the delta learned nothing."""
        if self.failures:
            message = "; ".join(text for text, _ in self.failures)
            raise TrainingError(f"nothing was learned: {message}", hint=self.failures[0][1])


def make_receipt(inputs: ReceiptInputs, evaluator: SampleEvaluator, after: EvalSnapshot) -> Receipt:
    """Compare the snapshot after the last step with the one before the first."""
    progress, sources = inputs.progress, inputs.sources
    norms: list[UpdateNorm] = []
    still: list[str] = []
    if inputs.first_values is not None:
        norms = update_norms(inputs.assembled, inputs.trainable, inputs.first_values)
        still = unchanged(inputs.assembled, inputs.trainable, inputs.first_values)
    problems = _failures(inputs, norms, still, after)
    content = {
        "held_out": None
        if sources.evaluation is None
        else {"rows": len(sources.evaluation), "before": progress.first, "after": after.scores},
        "held_in": _held_in(evaluator, progress.first_losses, after.losses),
        "delta": {
            "unmoved": still,
            "layers": [{**asdict(each), "ratio": each.ratio} for each in norms],
        },
        "steps": {
            "done": progress.step,
            "updates": progress.updates,
            "largest_gradient_norm": progress.largest_gradient,
            "passes": progress.epoch,
        },
        "targets": targets(inputs.assembled),
        "rows": {"train": rows(sources.train, inputs.seq_len)}
        | ({"eval": rows(sources.evaluation, inputs.seq_len)} if sources.evaluation is not None else {}),
        "texts": _texts(evaluator, progress.first_texts, after.texts),
        "failures": [f"{text}. {cause}" for text, cause in problems],
    }
    return Receipt(content, after.scores, norms, problems)


def _held_in(evaluator: SampleEvaluator, before: list[float] | None, after: list[float] | None) -> JsonObject | None:
    """Return the mean loss of the evaluated training rows, and the largest change of one row's; None where either is not known."""
    if not before or not after or len(before) != len(after):
        return None
    change = np.abs(np.array(after) - np.array(before))
    return {
        "rows": [int(row) for row in evaluator.rows.per_row["row"]],
        "loss": {"before": float(np.mean(before)), "after": float(np.mean(after))},
        "largest_change": float(change.max()),
    }


def _texts(evaluator: SampleEvaluator, before: list[str], after: list[str]) -> list[JsonObject]:
    return [
        {"prompt": prompt.text, "reference": prompt.reference, "before": first, "after": last}
        for prompt, first, last in zip(evaluator.prompts, before, after, strict=False)
    ]


def targets(assembled: Assembled) -> JsonObject:
    """Return the layers that --target and --exclude named, and those that were matched, by role."""
    roles = assembled.loaded.sites.linears
    matched: dict[str, int] = {}
    for path in assembled.layers:
        role = next((role for role, pattern in roles.items() if fnmatchcase(path, pattern)), "other")
        matched[role] = matched.get(role, 0) + 1
    return {
        "asked": dict(assembled.layers_per_target),
        "excluded": list(getattr(assembled.config, "exclude", ())),
        "layers": len(assembled.layers),
        "matched": matched,
    }


def rows(examples: ExampleSet, seq_len: int) -> JsonObject:
    """Count rows read, used, cut and dropped, with reasons, and their supervised tokens."""
    stats = examples.stats
    distinct = len(np.unique(examples.per_row["row"]))
    # For lm a row without text is left out; for other tasks it is used.
    left_out = stats.empty if stats.used + stats.bad + stats.empty <= stats.read else 0
    elsewhere = max(0, stats.used - distinct)
    dropped = {
        "cannot be used": stats.bad,
        "without text": left_out,
        "held out, or left out by data.weights or data.shares": elsewhere,
    }
    found: JsonObject = {
        "read": stats.read,
        "used": distinct,
        "repeated": len(examples) - distinct,
        "cut": {f"longer than {seq_len} tokens": stats.cut} if stats.cut else {},
        "nothing_left_to_learn": stats.completion_gone,
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "tokens": stats.tokens,
    }
    if examples.task in DECODER_TASKS:
        share = stats.supervised / stats.tokens if stats.tokens else 0.0
        found |= {"supervised_tokens": stats.supervised, "supervised_share": share, "eos_rows": stats.eos_supervised}
    return found


def _failures(
    inputs: ReceiptInputs, norms: list[UpdateNorm], still: list[str], after: EvalSnapshot
) -> list[tuple[str, str]]:
    """Return the signs that the delta learned nothing: only signs that even a short healthy run never shows."""
    progress, name = inputs.progress, inputs.assembled.method.name
    if not progress.learned:
        return [
            (
                "the loss was 0 at every step",
                "Nothing was supervised, or the base knows these rows already: look at the labels with --dry-run.",
            )
        ]
    if not progress.updates:
        return [
            (
                f"none of the {progress.step} steps changed a weight: every one overflowed, or was left out",
                "Train longer, so that the loss scale finds its size, or set it lower: --set train.loss_scale=128.",
            )
        ]
    if not progress.largest_gradient:
        return [("the gradients were all zero", _no_gradient(inputs))]
    found = []
    updates = [each for each in norms if each.kind == "update"]
    own = [p.name for p in inputs.trainable.parameters if p.name in set(inputs.assembled.attached)]
    if updates and not any(each.norm for each in updates):
        found.append((f"what {name} adds to its {len(updates)} layers is still zero", _unchanged_hint(inputs, norms)))
    elif own and len(still) == len(own):
        found.append(
            (f"none of the {len(own)} parameters that {name} trains has changed", _unchanged_hint(inputs, norms))
        )
    if _same_output(inputs, after) and progress.step > inputs.schedule.warmup_steps:
        found.append(
            ("the model computes what it computed before, to the last bit", _same_output_hint(inputs, norms)),
        )
    return found


def _same_output(inputs: ReceiptInputs, after: EvalSnapshot) -> bool:
    """Return whether every figure that was measured before and after is the same."""
    progress = inputs.progress
    pairs: list[tuple[object, object]] = []
    if progress.first_losses and after.losses:
        pairs.append((progress.first_losses, after.losses))
    if progress.first and after.scores and "loss" in after.scores:
        pairs.append((progress.first, after.scores))
    return bool(pairs) and all(first == last for first, last in pairs)


def _no_gradient(inputs: ReceiptInputs) -> str:
    if inputs.compute_dtype == "float16":
        return "Likely float16, where a small gradient becomes zero: --set model.dtype=float32, or a larger train.loss_scale."
    return (
        "No trained parameter reaches the loss: see that --target names layers that the net uses, "
        "and that a net of your own does not stop gradients."
    )


def _unchanged_hint(inputs: ReceiptInputs, norms: list[UpdateNorm]) -> str:
    heads = [each.name for each in norms if each.kind == "head" and each.norm]
    if heads:
        return (
            f"Only what trains beside it changed ({heads[0]}): no gradient reached the delta. "
            "See that --target names layers that the net uses."
        )
    return f"Gradients came, so the learning rate of {inputs.schedule.peak:g} is likely too small: raise --lr."


def _same_output_hint(inputs: ReceiptInputs, norms: list[UpdateNorm]) -> str:
    largest = max((each.ratio or 0.0 for each in norms), default=0.0)
    return (
        f"The weights changed by at most {largest:.2g} of themselves, too little to show in {inputs.compute_dtype}: raise --lr "
        f"(it was {inputs.schedule.peak:g}) or train longer; or --target names layers that the output does not depend on."
    )
