"""Resolve the settings of eval and predict from flags and the delta's manifest, and load their rows and their net."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.assets import task_file
from petrun.checkpoint.delta import Delta, Manifest
from petrun.checkpoint.run_files import run_files
from petrun.config.effect import BASE_KEYS, require_read
from petrun.config.load import load_run_config
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.data.batches.buckets import Order, plan_batches
from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn, end_of_turn_of_mark, find_end_of_turn
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.slices import split_slice
from petrun.data.tasks import DECODER_TASKS, IMAGE, PREFERENCE
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import ConfigError
from petrun.evaluate.score import Batch
from petrun.inference.assembly import (
    classes_of,
    delta_if_given,
    fit_delta,
    one_number,
    open_base,
    require_matching_family,
    virtual_tokens,
    with_form_of,
)
from petrun.inference.base_info import BaseInfo, read_base_info
from petrun.inference.delta_tokenizer import tokenizer_for
from petrun.inference.rows import (
    check_length,
    example_settings,
    open_rows,
    require_matching_classes,
    require_room,
    scoring_batches,
    try_rows,
)
from petrun.interop.convert import trained_task
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.context import Device, setup
from petrun.tensors.sharded.ranks import root_of

_DEFAULT_BATCH = 16
READ_KEYS = (
    *BASE_KEYS, "delta_strategy", "data.path", "data.task", "data.format", "data.separator", "data.encoding", "data.columns", "data.labels",
    "data.regression", "data.template", "data.chat_template_kwargs", "data.ignore", "data.seq_len", "data.loss_on", "data.on_bad_row",
    "data.max_rows", "data.buckets", "data.cache", "eval.batch_size", "eval.metrics", "eval.max_new_tokens", "train.seed",
)  # fmt: skip
"""Settings that are read here, of the many that a run has."""


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Resolved settings of a command that reads rows with a base and perhaps a delta, before any weight is read."""

    config: RunConfig
    delta: Delta | None
    alpha: float | None
    """Of a MindPet checkpoint."""
    device: Device
    base_info: BaseInfo
    tokenizer: Tokenizer | None
    paths: tuple[str, ...]
    """Files of rows."""
    template: str | Template | None
    labels: tuple[str, ...]
    """Names of the classes; () where neither the delta nor the base knows them."""
    num_labels: int | None

    @property
    def batch_size(self) -> int:
        return self.config.eval.batch_size or _DEFAULT_BATCH

    @property
    def input_files(self) -> tuple[Path, ...]:
        """Files and folders that the command reads, and the files of the delta's run."""
        model = self.config.model
        given = [
            *(split_slice(path)[0] for path in self.paths),
            model.base,
            model.base_strategy,
            self.config.delta_strategy,
        ]
        delta = run_files(root_of(self.delta.path)) if self.delta is not None else ()
        return (*(root_of(Path(path).expanduser()) for path in given if path is not None), *delta)

    def rows(self, task: str | None = None, *, need_target: bool = True, for_generation: bool = False) -> ExampleSet:
        """Read the data. `task`: instead of the settings' own; `for_generation`: as prompts."""
        data = self.config.data
        settings = example_settings(
            data,
            self.base_info,
            task=task or data.task,
            labels=self.labels,
            num_labels=self.num_labels,
            template=self.template,
        )
        settings = replace(settings, need_target=need_target, for_generation=for_generation)
        rows = open_rows(data, self.paths, self.tokenizer, settings)
        if need_target:
            require_matching_classes(rows, self.labels or data.labels, self.num_labels)
        if for_generation:
            require_room(rows, self.base_info.longest)
        return rows

    def prompts(self, rows: ExampleSet) -> ExampleSet:
        """Read the rows once more as prompts with references."""
        return self.rows(rows.task, for_generation=True)

    def batches(self, rows: ExampleSet, loaded: LoadedModel, order: Order = "length") -> Iterator[Batch]:
        """Yield the rows in batches. `order`: as plan_batches."""
        batching = plan_batches(
            rows.batch_lengths,
            batch_size=self.batch_size,
            seq_len=rows.longest_row(self.config.data.seq_len),
            buckets=self.config.data.buckets,
            order=order,
            arrays=rows.is_arrays,
        )
        return scoring_batches(rows, batching.epoch(0), loaded.inputs, loaded.pad_token_id)

    def end_of_turn(self, rows: ExampleSet) -> EndOfTurn:
        """Return the ends of turn of these rows: that of their template, and the one that the delta learned."""
        manifest = self.delta.manifest if self.delta is not None else None
        return find_end_of_turn(rows.template, self.tokenizer) | learned_end_of_turn(manifest, self.tokenizer)

    def load(self, rows: ExampleSet) -> tuple[LoadedModel, Delta | None]:
        """Load the base, and fit the delta to its names; the delta is not attached yet."""
        factory = is_factory(self.config.model.family)
        loaded = open_base(
            self.config.model,
            self.device,
            task=None if factory else rows.task,
            num_labels=self.num_labels or rows.num_labels,
            seed=self.config.train.seed,
            arrays=tuple(rows.arrays),
        )
        try_rows(loaded, rows)
        return loaded, None if self.delta is None else self.fitted(loaded)

    def fitted(self, loaded: LoadedModel) -> Delta:
        """Return the delta with the names of the net. There must be a delta."""
        assert self.delta is not None
        return fit_delta(self.delta, loaded, self.alpha)


def resolve_settings(
    flags: Mapping[str, tuple[str, object]], sets: Sequence[str], *, delta: str | None, alpha: float | None
) -> InferenceSettings:
    """Resolve everything that needs no weights. Flags come before the delta's manifest, and that before the defaults."""
    resolved = load_run_config(None, flags, sets)
    require_read(resolved, READ_KEYS)
    given = delta_if_given(delta, alpha, resolved.config.delta_strategy)
    resolved = _inherit(resolved, given)
    config = resolved.config
    if config.data.task == IMAGE:
        raise ConfigError(
            "--task image: pictures are not scored or predicted yet",
            hint="petrun train --task image trains such a delta, and petrun inspect says what it holds.",
        )
    device = setup(config.device, config.model.dtype)
    use_compile_cache(config)
    base_info = read_base_info(config, virtual_tokens(given))
    require_matching_family(given, base_info.hf_config)
    seq_len = check_length(
        config.data.seq_len, base_info.longest, resolved.given("data.seq_len"), base_info.virtual_tokens
    )
    paths = _paths(config)
    classes = classes_of(given)
    if classes is not None and base_info.num_labels not in (None, classes):
        # The delta's head has another size than the base's own, which is then not used.
        config = config.model_copy(update={"model": config.model.model_copy(update={"fresh_head": True})})
    manifest = given.manifest if given is not None else None
    info = manifest.task if manifest is not None else None
    template: str | Template | None = config.data.template
    if template is None and manifest is not None and manifest.template:
        template = Template(name="delta", text=manifest.template)
    tokenizer = tokenizer_for(base_info.folder, () if given is None else (given,))
    return InferenceSettings(
        config=config.model_copy(update={"data": config.data.model_copy(update={"seq_len": seq_len})}),
        delta=given,
        alpha=alpha,
        device=device,
        base_info=base_info,
        tokenizer=tokenizer,
        paths=paths,
        template=template,
        labels=(info.labels if info else ()) or base_info.labels,
        num_labels=classes or base_info.num_labels or one_number(given),
    )


def _paths(config: RunConfig) -> tuple[str, ...]:
    """Return the files of rows; for the embedded base those of the embedded task. Raises ConfigError."""
    if config.data.path:
        return config.data.path
    if config.model.base is not None or config.model.family is not None:
        raise ConfigError("--data is missing: the file of rows to read", hint="Example: --data dev.jsonl")
    return (str(task_file("eval")),)


def learned_end_of_turn(manifest: Manifest | None, tokenizer: Tokenizer | None) -> EndOfTurn:
    """Return the end of turn of a delta: the entry of its manifest, or for an older manifest the end_of_turn of its template."""
    if manifest is None:
        return NO_END_OF_TURN
    if manifest.end_of_turn is not None:
        return end_of_turn_of_mark(manifest.end_of_turn, tokenizer)
    return find_end_of_turn(Template(name="delta", text=manifest.template) if manifest.template else None, tokenizer)


def _inherit(resolved: Resolved, delta: Delta | None) -> Resolved:
    """Take over the manifest's settings where no flag gives others. Raises ConfigError for another task than the delta's."""
    info = delta.manifest.task if delta is not None and delta.manifest is not None else None
    if info is None or delta is None or delta.manifest is None:
        task = None if delta is None else trained_task(delta)
        asked = resolved.config.data.task
        if task is not None and asked is not None and asked != task:
            raise ConfigError(
                f"{resolved.origins['data.task']} {asked} contradicts the delta, which was trained for {task}",
                hint="Leave --task out.",
            )
        if delta is None or task is None or asked is not None:
            return resolved
        data = resolved.config.data.model_copy(update={"task": task})
        return Resolved(resolved.config.model_copy(update={"data": data}), resolved.origins)
    config = resolved.config
    own = {
        # Such a delta answers prompts like any other: its rows need not hold two answers.
        "task": None if info.name == PREFERENCE else info.name,
        "seq_len": info.seq_len,
        "loss_on": info.loss_on,
        "columns": info.columns,
        "separator": info.separator,
    }
    if (
        resolved.given("data.task")
        and config.data.task != info.name
        and not {config.data.task, info.name} <= set(DECODER_TASKS)
    ):
        raise ConfigError(
            f"{resolved.origins['data.task']} {config.data.task} contradicts the delta, which was trained for {info.name}",
            hint="Leave --task out.",
        )
    update = {k: v for k, v in own.items() if v is not None and not resolved.given(f"data.{k}")}
    data = config.data.model_copy(update=update)
    model = with_form_of(config.model, [delta])
    if model.family is None and is_factory(delta.manifest.family):
        # Never run code that a file names: the user must name it.
        raise ConfigError(
            f"{delta.path} belongs to a model of your own, {delta.manifest.family}",
            hint=f"Give it: --model {delta.manifest.family}",
        )
    # A head that was new at training is new now: the base's own is not loaded, whatever its size. Only a head, and layers that only a
    # new head reads, are ever initialised.
    if delta.manifest.base.fresh:
        model = model.model_copy(update={"fresh_head": True})
    train = config.train.model_copy(update={"seed": delta.manifest.seed})
    return Resolved(config.model_copy(update={"data": data, "model": model, "train": train}), resolved.origins)
