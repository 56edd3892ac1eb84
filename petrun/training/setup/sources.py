"""Opens the data of a training run: training and evaluation rows, prompts, tokenizer, template, metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from petrun.assets import task_file
from petrun.checkpoint.delta import Delta
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.data.chat.end_of_turn import EndOfTurn, find_end_of_turn
from petrun.data.examples.example_set import ExampleSet, split
from petrun.data.tasks import IMAGE
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.evaluate.metrics import METRICS, Metric, best_metric, require_packages, select_metrics
from petrun.evaluate.score import Scorer
from petrun.inference.assembly import classes_of, one_number, require_matching_family, virtual_tokens
from petrun.inference.base_info import BaseInfo, read_base_info
from petrun.inference.pictures.rows import pipeline_of, read_picture_rows, tokenizer_of
from petrun.inference.rows import (
    check_length,
    example_settings,
    open_rows,
    open_tokenizer,
    require_classes,
    require_matching_classes,
    require_room,
)
from petrun.interop.convert import trained_task
from petrun.models.factory import is_factory


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Holds the rows to train and to evaluate on, and how they were read."""

    train: ExampleSet
    evaluation: ExampleSet | None
    prompts: ExampleSet | None
    """The evaluation rows as prompts, where a metric needs generated text."""
    tokenizer: Tokenizer | None
    task: str | None
    """None for a factory, whose net says itself what it does."""
    metrics: tuple[Metric, ...]
    best: Metric
    template: Template | None
    scorer: Scorer | None = None
    """What asked the net that the run begins from about rows of preference: evaluations of that net go on with its compiled graphs."""

    @property
    def end_of_turn(self) -> EndOfTurn:
        """How answers end, as the template says."""
        return find_end_of_turn(self.template, self.tokenizer)


def resolve_data(given: Resolved, start: Delta | None) -> tuple[Resolved, BaseInfo]:
    """Return the settings with the files of rows and their length in tokens, and what the base's config.json says.

    Raises ConfigError for a length that the base does not have, and for missing files; DeltaError for a delta of another architecture.
    """
    config = given.config
    if config.data.task == IMAGE:
        pipeline_of(config)
    own = find_method(config.algo).tokens(config.delta)
    base_info = read_base_info(config, own if start is None else virtual_tokens(start))
    require_matching_family(start, base_info.hf_config)
    paths, eval_paths = _files(config)
    seq_len = check_length(
        config.data.seq_len, base_info.longest, given.given("data.seq_len"), base_info.virtual_tokens
    )
    return given.settle({"data.seq_len": seq_len, "data.path": paths, "data.eval_path": eval_paths}), base_info


def open_sources(config: RunConfig, base_info: BaseInfo, start: Delta | None) -> Sources:
    """Read all rows of the run, whose settings of data are those of `resolve_data`."""
    data, paths, eval_paths = config.data, config.data.path, config.data.eval_path
    if data.task == IMAGE:
        words = tokenizer_of(pipeline_of(config))
        return _sources_of_pictures(read_picture_rows(config, words), words)
    tokenizer = open_tokenizer(base_info.folder)
    told = _foreign_task(start)
    if told is not None and data.task not in (None, told):
        raise ConfigError(
            f"--task {data.task} contradicts --init-delta {config.init_delta}, which was trained for {told}",
            hint="Leave --task out.",
        )
    info = start.manifest.task if start is not None and start.manifest is not None else None
    template = _template(config, start)
    settings = example_settings(
        data,
        base_info,
        task=data.task or told,
        labels=(info.labels if info else ()) or base_info.labels,
        num_labels=classes_of(start) or base_info.num_labels or one_number(start),
        template=template,
    )
    train_rows = open_rows(
        data, paths, tokenizer, settings, weights=data.weights, shares=data.shares, seed=config.train.seed
    )
    task = train_rows.task
    train_rows = _with_classes(train_rows, is_factory(config.model.family))
    metrics = select_metrics(config.eval.metrics, train_rows.metrics_of)
    evaluation = None
    if eval_paths:
        evaluation = _evaluation(config, eval_paths, tokenizer, base_info, train_rows, generation=False)
    elif data.eval_split > 0:
        train_rows, evaluation = split(train_rows, data.eval_split, config.train.seed)
    generated = [m for m in metrics if m.generated]
    prompts = None
    if generated:
        require_packages(generated)
        if evaluation is None:
            raise ConfigError(
                f"eval.metrics {', '.join(m.name for m in generated)} needs --eval-data or --eval-split",
                hint="Or leave these metrics out.",
            )
        prompts = _evaluation(config, eval_paths or paths, tokenizer, base_info, train_rows, generation=True)
        if not eval_paths:
            held = np.isin(prompts.per_row["row"], evaluation.per_row["row"])
            prompts = prompts.take(np.flatnonzero(held))
    return Sources(
        train=train_rows,
        evaluation=evaluation,
        prompts=prompts,
        tokenizer=tokenizer,
        task=None if is_factory(config.model.family) else task,
        metrics=metrics,
        best=best_metric(config.train.best_metric, train_rows.metrics_of),
        template=train_rows.template,
    )


def _sources_of_pictures(rows: ExampleSet, tokenizer: Tokenizer | None) -> Sources:
    return Sources(
        train=rows,
        evaluation=None,
        prompts=None,
        tokenizer=tokenizer,
        task=rows.task,
        metrics=(),
        best=METRICS["loss"],
        template=None,
    )


def _foreign_task(start: Delta | None) -> str | None:
    """Return the task that a starting delta of another tool says it was trained for; None where it does not."""
    return trained_task(start) if start is not None and start.manifest is None else None


def _with_classes(rows: ExampleSet, own_net: bool) -> ExampleSet:
    """Return the rows without num_labels 1, which would mean that the net predicts a number, where they have one class only.

    Raises for a net of petrun's own, whose head needs two classes at least.
    """
    if not own_net:
        require_classes(rows)
    return replace(rows, num_labels=None) if rows.num_labels == 1 and not rows.is_regression else rows


def _evaluation(
    config: RunConfig,
    paths: tuple[str, ...],
    tokenizer: Tokenizer | None,
    base_info: BaseInfo,
    train_rows: ExampleSet,
    *,
    generation: bool,
) -> ExampleSet:
    settings = example_settings(
        config.data,
        base_info,
        task=train_rows.task,
        labels=train_rows.labels,
        num_labels=train_rows.num_labels,
        template=train_rows.template,
    )
    rows = open_rows(config.data, paths, tokenizer, replace(settings, for_generation=generation))
    require_matching_classes(rows, train_rows.labels, train_rows.num_labels)
    if generation:
        require_room(rows, base_info.longest)
    return rows


def _template(config: RunConfig, start: Delta | None) -> str | Template | None:
    """Return the user's template, else the one that the starting delta was trained with."""
    if config.data.template is not None or start is None or start.manifest is None or not start.manifest.template:
        return config.data.template
    return Template(name="delta", text=start.manifest.template)


def _files(config: RunConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the training and evaluation files: the user's, or the embedded task's for the embedded base. Raises ConfigError."""
    data = config.data
    if data.path:
        return data.path, data.eval_path
    if config.model.base is not None or config.model.family is not None:
        raise ConfigError("--data is missing: the file of training examples", hint="Example: --data train.jsonl")
    if data.eval_path:
        raise ConfigError("--eval-data without --data", hint="Give --data as well, or neither.")
    return (str(task_file("train")),), (str(task_file("eval")),)
