"""Train the job's first steps as one rank on the CPU: `python -m petrun.rehearsal.one_rank FOLDER`.

Reads FOLDER/job.json, and writes FOLDER/one_rank.npz: what all other ranks' numbers are held against. It takes petrun's own path for the
CPU in float32, with the C++ operators, and shares nothing with the graphs that are computed for the ranks.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.checkpoint.delta import Delta
from petrun.config.resolved import Resolved
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError, PetrunError
from petrun.inference.assembly import base_path, fit_delta, open_base
from petrun.inference.base_info import read_base_info
from petrun.inference.rows import open_tokenizer
from petrun.kernels import batch_offset, step_counter
from petrun.models.base import LoadedModel
from petrun.models.factory import outline_model
from petrun.parallel import context
from petrun.parallel.layout import Layout
from petrun.rehearsal.job import JOB_FILE, RankJob, read_settings
from petrun.rehearsal.shapes import BatchShapes, read_rows
from petrun.rehearsal.shrink import is_shrunk, write_random_weights
from petrun.rehearsal.whole_batches import Batch, batches_of_run, draw_rows, drawn_batches, whole_batch
from petrun.tensors import Array
from petrun.train.loop import as_tensors, supervised
from petrun.train.step import TrainStep
from petrun.training.setup.attach_method import attach_method
from petrun.training.setup.build_step import build_step, plan_schedule
from petrun.training.setup.resolve_layout import resolve_layout
from petrun.training.setup.starting_delta import resolve_start, resolve_text
from petrun.typing import Cell

RESULT = "one_rank.npz"
FAILED = "one_rank.json"
_MOST_VALUES = 150_000_000
_INITIAL, _BATCH, _AFTER = "initial", "batch", "after"


@dataclass(frozen=True, kw_only=True)
class OneRankRun:
    """Holds what the run of one rank began with, read and found."""

    initial: dict[str, Array]
    """Every parameter of the step, frozen ones and the optimizer's state included, before the first step."""
    batches: list[list[dict[str, Array]]]
    """Of each step its micro-batches, of all ranks: the net's inputs in their order, then "targets"."""
    after: list[dict[str, Array]]
    """After each step: trained parameters, and both moments."""
    loss: list[float]
    norm: list[float]
    trained: list[str]
    beta1: float

    def denominator(self, step: int) -> float:
        """Scored targets of a step."""
        return float(max(1, sum(supervised(batch) for batch in self.batches[step])))

    def gradient(self, name: str, step: int) -> Array:
        """The gradient of a step, as the optimizer got it: (m_t - b1 m_(t-1)) / (1 - b1)."""
        before = self.after[step - 1] if step else self.initial
        return gradient_of(before[f"adam_m.{name}"], self.after[step][f"adam_m.{name}"], self.beta1)


def gradient_of(before: Array, after: Array, beta1: float) -> Array:
    """The gradient that moved a first moment from `before` to `after`."""
    found: Array = (after.astype(np.float64) - beta1 * before.astype(np.float64)) / (1.0 - beta1)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    job = RankJob.read(folder / JOB_FILE)
    try:
        _write(folder / RESULT, *_train(job))
    except PetrunError as error:
        refused = {"refused": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
        (folder / FAILED).write_text(json.dumps(refused), encoding="utf-8")


def _train(job: RankJob) -> tuple[dict[str, Array], dict[str, object]]:
    """Return (arrays, figures) of the run."""
    given, start = read_settings(job.recipe, job.flags, job.sets)
    config = given.config
    layout = resolve_layout(config, job.cards)
    device = context.setup("cpu", "float32", None)
    _draw_missing_weights(config.model, job.shapes, config.train.seed)
    loaded = open_base(
        config.model,
        device,
        task=None if job.shapes.arrays else job.shapes.task,
        num_labels=job.shapes.classes,
        seed=config.train.seed,
        arrays=tuple(job.shapes.arrays),
    )
    resolved = resolve_text(given, open_tokenizer(read_base_info(config).folder))
    resolved, starting = resolve_start(resolved, start, lambda delta, alpha: fit_delta(delta, loaded, alpha))
    config = resolved.config
    assembled, trainable = attach_method(config, loaded, starting)
    if trainable.all_values > _MOST_VALUES:
        raise ConfigError(
            f"--compute: {trainable.all_values:,} parameters on each of {layout.world} ranks are too many for this machine",
            hint="Shrink the base, its heads stay: --shrink 2x64.",
        )
    schedule = plan_schedule(config.optim, job.shapes.plan(config.train.accumulate), assembled.method.default_lr)
    # Without dropout the batch is computed as a whole, whose float32 sums are closer to exact ones than those of its parts.
    parts = layout.micro_batches if _draws_masks(loaded.net) else 1
    plain = config.model_copy(
        update={
            "parallel": config.parallel.model_copy(update={"offload": None, "recompute": "none"}),
            "train": config.train.model_copy(update={"accumulate": config.train.accumulate * parts}),
        }
    )
    step = build_step(plain, assembled, trainable, schedule, device, Layout())
    loaded.net.set_train(True)
    batches = _batches(job, given, start, loaded, layout)
    arrays = {f"{_INITIAL}/{p.name}": p.asnumpy().copy() for p in step.get_parameters()}
    figures: dict[str, object] = {"trained": [p.name for p in trainable.parameters], "beta1": config.optim.beta1}
    losses, norms = [], []
    for number, group in enumerate(batches):
        loss, norm = _step(step, group, loaded.inputs, number * len(group), parts)
        losses.append(loss)
        norms.append(norm)
        for k, batch in enumerate(group):
            arrays.update({f"{_BATCH}/{number}/{k}/{name}": np.asarray(array) for name, array in batch.items()})
        kept = (*trainable.parameters, *step.optimizer.m, *step.optimizer.v)
        arrays.update({f"{_AFTER}/{number}/{p.name}": p.asnumpy().copy() for p in kept})
    return arrays, {**figures, "loss": losses, "norm": norms}


def _draw_missing_weights(model: ModelConfig, shapes: BatchShapes, seed: int) -> None:
    """Give a base that was shrunk its weights."""
    folder = base_path(model)
    if folder is not None and is_shrunk(folder):
        write_random_weights(folder, outline_model(folder, task=shapes.task, num_labels=shapes.classes), seed)


def _batches(
    job: RankJob, resolved: Resolved, start: Delta | None, loaded: LoadedModel, layout: Layout
) -> list[list[Batch]]:
    """Return the micro-batches of each step."""
    config, size = resolved.config, job.shapes.batch * layout.dp
    accumulate = config.train.accumulate
    if job.shapes.are_read:
        _, rows, batching = read_rows(resolved, start, layout)
        specs = batches_of_run(batching)
    else:
        vocab = read_base_info(config).vocabulary
        assert vocab is not None  # The rows of a model of the user's own are read.
        rows = draw_rows(job.shapes, vocab, size * job.steps * accumulate, config.train.seed)
        specs = drawn_batches(rows, size)
    return [
        [
            whole_batch(rows, spec, job.shapes, size, loaded.inputs, loaded.pad_token_id)
            for spec in islice(specs, accumulate)
        ]
        for _ in range(job.steps)
    ]


def _step(step: TrainStep, group: list[Batch], inputs: tuple[str, ...], first: int, parts: int) -> tuple[float, float]:
    """One update; see petrun.train.loop, which does the same and keeps no gradients. `first`: number of the group's first micro-batch.

    A pipeline splits each batch into `parts`, all of which draw the masks of one dropout counter: here their gradients are accumulated.
    """
    denominator = Tensor(float(max(1, sum(supervised(batch) for batch in group))), ms.float32)
    loss, norm = 0.0, 0.0
    for position in range(len(group) * parts):
        batch = _part(group[position // parts], position % parts, parts)
        step_counter().set_data(Tensor(first + position // parts, ms.int32))
        batch_offset().set_data(Tensor([0, len(batch["targets"])], ms.int32))
        targets, arrays = as_tensors(batch, inputs)
        value, norm_, _, _ = step(position == len(group) * parts - 1, denominator, targets, *arrays)
        loss, norm = loss + float(value.asnumpy()), float(norm_.asnumpy())
    return loss, norm


def _draws_masks(net: Cell) -> bool:
    """Return whether anything of a net drops out."""
    return any(getattr(cell, "p", 0.0) > 0.0 for _, cell in net.cells_and_names() if hasattr(cell, "keep"))


def _part(batch: Batch, i: int, parts: int) -> Batch:
    """Return the rows of part i of a batch."""
    rows = len(batch["targets"]) // parts
    return {name: array[rows * i : rows * (i + 1)] for name, array in batch.items()}


def _write(path: Path, arrays: dict[str, Array], figures: dict[str, object]) -> None:
    np.savez(path, figures=np.array(json.dumps(figures)), **arrays)


def read_one_rank(path: Path) -> OneRankRun:
    """Read what the process wrote."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    figures = json.loads(str(content.pop("figures")))
    initial: dict[str, Array] = {}
    batches: list[list[dict[str, Array]]] = [[] for _ in figures["loss"]]
    after: list[dict[str, Array]] = [{} for _ in figures["loss"]]
    for name, array in content.items():
        kind, _, rest = name.partition("/")
        number, _, own = rest.partition("/")
        if kind == _INITIAL:
            initial[rest] = array
        elif kind == _AFTER:
            after[int(number)][own] = array
        else:
            k, _, own = own.partition("/")
            # In the order in which they were written.
            if int(k) == len(batches[int(number)]):
                batches[int(number)].append({})
            batches[int(number)][int(k)][own] = array
    return OneRankRun(initial=initial, batches=batches, after=after, **figures)


if __name__ == "__main__":
    main()
