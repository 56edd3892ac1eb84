"""Find the shapes of a micro-batch: from the data where that is on this machine, else from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from petrun.assets import task_file
from petrun.checkpoint.delta import Delta
from petrun.config.resolved import Resolved
from petrun.config.schema import EvalConfig, RunConfig
from petrun.data.batches.buckets import Batching
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.slices import split_slice
from petrun.data.tasks import CLASS_TASKS, IMAGE, PREFERENCE
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.inference.assembly import virtual_tokens
from petrun.inference.base_info import read_base_info
from petrun.inference.rows import check_length, open_tokenizer
from petrun.models.factory import is_factory
from petrun.parallel.layout import Layout
from petrun.train.loop import Plan, make_plan
from petrun.training.setup.resolve import batch_rows
from petrun.training.setup.sources import open_sources, resolve_data

_STEPS = 1000
"""Steps of a run whose data is not here: they are constants of the graph and change nothing else in it."""


@dataclass(frozen=True, kw_only=True)
class BatchShapes:
    """Holds the shapes of a micro-batch of one data-parallel rank, and how they are known."""

    batch: int
    tokens: int
    task: str
    reason: str
    target_tokens: int = 0
    """Of an encoder-decoder: tokens that its decoder is given of each row; `tokens` are those of the sources."""
    steps: int = _STEPS
    classes: int | None = None
    arrays: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Name -> (dtype, shape of a row), where the data is arrays."""
    are_read: bool = False
    """Whether the rows are on this machine."""

    def plan(self, accumulate: int) -> Plan:
        """Return the plan of a run of so many steps."""
        return Plan(
            micro_batches_per_epoch=max(1, self.steps),
            accumulate=accumulate,
            total_micro_batches=self.steps * accumulate,
        )

    def __str__(self) -> str:
        target = f" + {self.target_tokens}" if self.target_tokens else ""
        length = f" x {self.tokens}{target} tokens" if self.tokens else ""
        return f"{self.batch} rows{length} on each data-parallel rank: {self.reason}"


def open_base_tokenizer(config: RunConfig) -> Tokenizer | None:
    """Open the base's tokenizer, where its folder has one."""
    return open_tokenizer(read_base_info(config).folder)


def batch_shapes(resolved: Resolved, start: Delta | None, layout: Layout) -> BatchShapes:
    """Find the shapes in the data where it is on this machine, else in the settings. Raises ConfigError for a factory without data."""
    config = resolved.config
    files = config.data.path or ((str(task_file("train")),) if config.model.base is None else ())
    here = bool(files) and all(split_slice(name)[0].exists() for name in files)
    if is_factory(config.model.family) or (here and open_base_tokenizer(config) is not None):
        return shapes_of_data(resolved, start, layout)
    # Virtual tokens of a prompt or a prefix use positions of the base.
    own = find_method(config.algo).tokens(config.delta) if start is None else virtual_tokens(start)
    base = read_base_info(config, own)
    length = check_length(config.data.seq_len, base.longest, resolved.given("data.seq_len"), base.virtual_tokens)
    missing = next((name for name in files if not split_slice(name)[0].exists()), None)
    why = (
        f"{missing} is not on this machine" if missing else "the base has no tokenizer" if files else "no data is given"
    )
    task = config.data.task or base.tasks[0]
    if task not in base.tasks:
        raise ConfigError(f"--task {task}: this base does {', '.join(base.tasks)}", hint="Give one of these, or none.")
    _require_rehearsed(task)
    classes = (
        (1 if config.data.regression else len(config.data.labels) or base.num_labels or 2)
        if task in CLASS_TASKS
        else None
    )
    return BatchShapes(
        batch=config.train.batch_size,
        tokens=length,
        target_tokens=0 if base.decoder_start is None else length,
        task=task,
        reason=f"data.seq_len, as {why}"
        + (f"; {classes} classes" if (classes or 0) > 1 else "; regression" if classes else ""),
        steps=config.train.steps or _STEPS,
        classes=classes,
    )


def read_rows(resolved: Resolved, start: Delta | None, layout: Layout) -> tuple[RunConfig, ExampleSet, Batching]:
    """Read the rows as training reads them, without evaluation data. Returns (the settled configuration, rows, their batches)."""
    config = resolved.config
    data = config.data.model_copy(update={"eval_path": (), "eval_split": 0.0})
    only = config.model_copy(update={"data": data, "eval": EvalConfig()})
    settings, base_info = resolve_data(Resolved(only, resolved.origins), start)
    rows = open_sources(settings.config, base_info, start).train
    return settings.config, rows, batch_rows(settings.config, rows, layout)


def _require_rehearsed(task: str) -> None:
    """Raise ConfigError for a task whose step is not rehearsed: it runs on ranks that hold the full model, as one rank runs it."""
    if task in (IMAGE, PREFERENCE):
        raise ConfigError(
            f"--task {task} is not rehearsed: such a run is data-parallel alone, and each rank takes the step of one rank",
            hint="Try its first steps on the CPU: petrun train --device cpu --steps 2.",
        )


def shapes_of_data(resolved: Resolved, start: Delta | None, layout: Layout) -> BatchShapes:
    """Find the shapes in the rows."""
    config, rows, batching = read_rows(resolved, start, layout)
    _require_rehearsed(rows.task)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    longest = max(batching.buckets, default=0)
    return BatchShapes(
        batch=config.train.batch_size,
        tokens=longest,
        target_tokens=max(batching.target_buckets, default=0),
        task=rows.task,
        reason=f"the longest of {len(batching.buckets)} lengths of {len(rows):,} rows"
        if longest
        else f"{len(rows):,} rows",
        steps=plan.total_steps,
        classes=rows.num_labels,
        arrays={name: (str(array.dtype), tuple(array.shape[1:])) for name, array in rows.arrays.items()},
        are_read=True,
    )
