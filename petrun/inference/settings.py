"""What eval and predict share: settings from flags and the delta's manifest, rows, and the net with or without the delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun import console
from petrun.assets import task_file
from petrun.checkpoint.delta import Delta, Manifest
from petrun.checkpoint.run_files import run_files
from petrun.config.load import Resolved, load_run_config
from petrun.config.schema import RunConfig
from petrun.data.chat.end_of_turn import NO_ENDING, Ending, ending_of, find_ending
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.slices import split_slice
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import ConfigError
from petrun.inference.assembly import (
    classes_of,
    delta_if_given,
    fit_delta,
    one_number,
    open_base,
    require_matching_family,
    virtual_tokens,
)
from petrun.inference.base_info import BaseInfo, read_base_info
from petrun.inference.rows import (
    check_length,
    open_rows,
    open_tokenizer,
    require_matching_classes,
    require_room,
    try_rows,
)
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.parallel.context import Device, setup
from petrun.tensors.sharded.ranks import root_of

_DEFAULT_BATCH = 16


@dataclass(frozen=True)
class Reading:
    """Settled settings of a command that reads rows with a base and, perhaps, a delta."""

    config: RunConfig
    delta: Delta | None
    alpha: float | None
    device: Device
    read_base_info: BaseInfo
    tokenizer: Tokenizer | None
    paths: tuple[str, ...]
    template: str | Template | None
    labels: tuple[str, ...]
    num_labels: int | None

    @property
    def batch_size(self) -> int:
        return self.config.eval.batch_size or _DEFAULT_BATCH

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files and folders that the command reads, and what a training run left beside its delta."""
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
        """Read the data file."""
        data = self.config.data
        rows = open_rows(
            data,
            self.paths,
            self.tokenizer,
            task=task or data.task,
            tasks=self.read_base_info.tasks,
            hf_config=self.read_base_info.hf_config,
            labels=self.labels,
            num_labels=self.num_labels,
            template=self.template,
            need_target=need_target,
            for_generation=for_generation,
        )
        if need_target:
            require_matching_classes(rows, self.labels or data.labels, self.num_labels)
        if for_generation:
            require_room(rows, self.read_base_info.longest)
        return rows

    def ending(self, rows: ExampleSet) -> Ending:
        """How answers to these rows end: as their template says, and as the delta has learned."""
        manifest = self.delta.manifest if self.delta is not None else None
        return find_ending(rows.template, self.tokenizer) | learned_ending(manifest, self.tokenizer)

    def net(self, rows: ExampleSet) -> tuple[LoadedModel, Delta | None]:
        """The base, and the delta that fits it, not attached yet."""
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
        """The delta with the names of the net; there must be one."""
        assert self.delta is not None
        return fit_delta(self.delta, loaded, self.alpha)


def open_reading(
    flags: Mapping[str, tuple[str, Any]],
    sets: Sequence[str],
    *,
    delta: str | None,
    alpha: float | None,
    embedded_rows: bool,
) -> Reading:
    """Settle everything that needs no weights: flags over the delta's manifest over defaults."""
    resolved = load_run_config(None, flags, sets)
    given = delta_if_given(delta, alpha, resolved.config.delta_strategy)
    resolved = _inherit(resolved, given)
    config = resolved.config
    device = setup(config.device, config.model.dtype)
    seen = read_base_info(config, virtual_tokens(given))
    require_matching_family(given, seen.hf_config)
    seq_len = check_length(config.data.seq_len, seen.longest, resolved.given("data.seq_len"), seen.tokens)
    paths = config.data.path
    if not paths:
        if not embedded_rows or config.model.base is not None or config.model.family is not None:
            raise ConfigError("--data is missing: the file of rows to read", hint="Example: --data dev.jsonl")
        paths = (str(task_file("eval")),)
    classes = classes_of(given)
    if classes is not None and seen.num_labels not in (None, classes):
        # The delta brings a head of another size than the base's own, which then has no part in this.
        config = config.model_copy(update={"model": config.model.model_copy(update={"fresh_head": True})})
    info = given.manifest.task if given is not None and given.manifest is not None else None
    template: str | Template | None = config.data.template
    if template is None and given is not None and given.manifest is not None and given.manifest.template:
        template = Template(name="delta", text=given.manifest.template)
    tokenizer = open_tokenizer(seen.folder)
    note_tokenizer(given, tokenizer)
    return Reading(
        config=config.model_copy(update={"data": config.data.model_copy(update={"seq_len": seq_len})}),
        delta=given,
        alpha=alpha,
        device=device,
        read_base_info=seen,
        tokenizer=tokenizer,
        paths=paths,
        template=template,
        labels=(info.labels if info else ()) or seen.labels,
        num_labels=classes or seen.num_labels or one_number(given),
    )


def learned_ending(manifest: Manifest | None, tokenizer: Tokenizer | None) -> Ending:
    """How a delta's answers end: as its manifest says; where that is older than this, as its template does."""
    if manifest is None:
        return NO_ENDING
    if manifest.end_of_turn is not None:
        return ending_of(manifest.end_of_turn, tokenizer)
    return find_ending(Template(name="delta", text=manifest.template) if manifest.template else None, tokenizer)


def note_tokenizer(delta: Delta | None, tokenizer: Tokenizer | None) -> None:
    """Say where the base's tokenizer has changed: ids may mean other words than the delta learned."""
    was = delta.manifest.tokenizer_digest if delta is not None and delta.manifest is not None else None
    if delta is not None and was is not None and tokenizer is not None and was != tokenizer.digest:
        console.print(
            f"note: the tokenizer in {tokenizer.files.folder} is not the one that {delta.path} was trained with"
        )


def _inherit(resolved: Resolved, delta: Delta | None) -> Resolved:
    """What the delta's manifest knows holds where no flag says otherwise. Its task cannot be changed."""
    info = delta.manifest.task if delta is not None and delta.manifest is not None else None
    if info is None or delta is None or delta.manifest is None:
        return resolved
    config = resolved.config
    own: dict[str, Any] = {
        "task": info.name,
        "seq_len": info.seq_len,
        "loss_on": info.loss_on,
        "columns": info.columns,
        "separator": info.separator,
    }
    decoders = ("lm", "instruct")
    if (
        resolved.given("data.task")
        and config.data.task != info.name
        and not {config.data.task, info.name} <= set(decoders)
    ):
        raise ConfigError(
            f"{resolved.origins['data.task']} {config.data.task} contradicts the delta, which was trained for {info.name}",
            hint="Leave --task out.",
        )
    update = {k: v for k, v in own.items() if v is not None and not resolved.given(f"data.{k}")}
    data = config.data.model_copy(update=update)
    model = config.model
    if model.family is None and is_factory(delta.manifest.family):
        # Never run code that a file names: the user must name it.
        raise ConfigError(
            f"{delta.path} belongs to a model of your own, {delta.manifest.family}",
            hint=f"Give it: --model {delta.manifest.family}",
        )
    # A fresh head at training time is a fresh head now: the base's own stays out, whatever its size.
    fresh = delta.manifest.base.fresh
    if any(name.startswith("classifier.") for name in fresh):
        model = model.model_copy(update={"fresh_head": True})
    train = config.train.model_copy(update={"seed": delta.manifest.seed})
    return Resolved(config.model_copy(update={"data": data, "model": model, "train": train}), resolved.origins)
