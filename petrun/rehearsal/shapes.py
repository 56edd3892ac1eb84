"""What a micro-batch of the job looks like: from its data where that is on this machine, else from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from petrun.assets import task_file
from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved
from petrun.config.schema import EvalConfig, RunConfig
from petrun.data.formats.slices import split_slice
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.inference.assembly import virtual_tokens
from petrun.inference.base_info import read_base_info
from petrun.inference.rows import check_length, open_tokenizer
from petrun.models.factory import is_factory
from petrun.parallel.layout import Layout
from petrun.train.loop import make_plan
from petrun.training.setup.sources import open_sources
from petrun.training.setup.training_setup import batch_rows

_STEPS = 1000
"""Steps of a run whose data is not here: they are constants of the graph and change nothing else in it."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a micro-batch of one data-parallel rank looks like, and how that is known."""

    batch: int
    tokens: int
    task: str
    reason: str
    steps: int = _STEPS
    classes: int | None = None
    arrays: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Name -> (dtype, shape of a row), where the data is arrays."""

    def __str__(self) -> str:
        length = f" x {self.tokens} tokens" if self.tokens else ""
        return f"{self.batch} rows{length} on each data-parallel rank: {self.reason}"


def tokenizer_beside(config: RunConfig) -> Tokenizer | None:
    """The base's tokenizer, where its folder has one."""
    return open_tokenizer(read_base_info(config).folder)


def shapes_of(resolved: Resolved, start: Delta | None, layout: Layout) -> Shapes:
    """From the data where it is on this machine, else from the settings. Raises ConfigError for a factory without data."""
    config = resolved.config
    files = config.data.path or ((str(task_file("train")),) if config.model.base is None else ())
    here = bool(files) and all(split_slice(name)[0].exists() for name in files)
    if is_factory(config.model.family) or (here and tokenizer_beside(config) is not None):
        return _shapes_of_data(resolved, start, layout)
    # A prompt's or a prefix's virtual tokens take positions away.
    own = find_method(config.algo).tokens(config.delta) if start is None else virtual_tokens(start)
    seen = read_base_info(config, own)
    length = check_length(config.data.seq_len, seen.longest, resolved.given("data.seq_len"), seen.virtual_tokens)
    missing = next((name for name in files if not split_slice(name)[0].exists()), None)
    why = (
        f"{missing} is not on this machine" if missing else "the base has no tokenizer" if files else "no data is given"
    )
    task = config.data.task or seen.tasks[0]
    if task not in seen.tasks:
        raise ConfigError(f"--task {task}: this base does {', '.join(seen.tasks)}", hint="Give one of these, or none.")
    classes = (
        (1 if config.data.regression else len(config.data.labels) or seen.num_labels or 2)
        if task == "classify"
        else None
    )
    return Shapes(
        batch=config.train.batch_size,
        tokens=length,
        task=task,
        reason=f"data.seq_len, as {why}"
        + (f"; {classes} classes" if (classes or 0) > 1 else "; regression" if classes else ""),
        steps=config.train.steps or _STEPS,
        classes=classes,
    )


def _shapes_of_data(resolved: Resolved, start: Delta | None, layout: Layout) -> Shapes:
    """Rows are read as training reads them; what is evaluated does not matter here."""
    config = resolved.config
    data = config.data.model_copy(update={"eval_path": (), "eval_split": 0.0})
    only = config.model_copy(update={"data": data, "eval": EvalConfig()})
    sources, settled = open_sources(Resolved(only, resolved.origins), start)
    rows = sources.train
    batching = batch_rows(settled.config, rows, layout)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    longest = max(batching.buckets, default=0)
    return Shapes(
        batch=config.train.batch_size,
        tokens=longest,
        task=rows.task,
        reason=f"the longest of {len(batching.buckets)} lengths of {len(rows):,} rows"
        if longest
        else f"{len(rows):,} rows",
        steps=plan.total_steps,
        classes=rows.num_labels,
        arrays={name: (str(array.dtype), tuple(array.shape[1:])) for name, array in rows.arrays.items()},
    )
