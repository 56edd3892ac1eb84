"""Refuses settings that have no effect in a run: it would not be the run that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petrun.config.image import ImageConfig
from petrun.config.preference import PreferenceConfig
from petrun.config.resolved import Resolved, as_typed
from petrun.config.schema import RunConfig
from petrun.data.formats.format import Format
from petrun.data.formats.separated import SEPARATED
from petrun.data.formats.table import find_format
from petrun.data.tasks import CLASS_TASKS, IMAGE, PREFERENCE, PROMPTED_TASKS
from petrun.errors import ConfigError
from petrun.models.factory import is_factory
from petrun.train.preference import PREFERENCE_LOSSES
from petrun.train.schedules import SCHEDULES
from petrun.training.setup.sources import Sources


@dataclass(frozen=True, kw_only=True)
class UnusedSettings:
    """Names settings, and when they have no effect."""

    keys: tuple[str, ...]
    applies: Callable[[RunConfig, Sources], bool]
    reason: str
    hint: str = "Leave it out."


def _not_classify(config: RunConfig, sources: Sources) -> bool:
    return sources.train.task != "classify"


def _not_instruct(config: RunConfig, sources: Sources) -> bool:
    return sources.train.task != "instruct"


def _not_preference(config: RunConfig, sources: Sources) -> bool:
    return sources.train.task != PREFERENCE


def _unread(field: str) -> Callable[[RunConfig, Sources], bool]:
    """Whether the run's loss on preferences does not read this setting."""
    return lambda config, sources: field not in PREFERENCE_LOSSES[config.preference.loss].reads


def _any_format(sources: Sources, suits: Callable[[Format], bool]) -> bool:
    """Whether one of the files of rows is of such a format."""
    names = {*sources.train.formats, *(sources.evaluation.formats if sources.evaluation is not None else ())}
    return any(suits(find_format(name)) for name in names)


_NO_PROMPTS = "the task is not instruct, and only that has prompts and completions"
UNUSED: tuple[UnusedSettings, ...] = (
    UnusedSettings(
        keys=("train.patience", "train.best_metric", "train.eval_every_steps", "eval.metrics", "eval.batch_size"),
        applies=lambda config, sources: sources.evaluation is None,
        reason="there is no evaluation data, so nothing is evaluated during the run",
        hint="Give --eval-data FILE, or --eval-split 0.1, or leave it out.",
    ),
    UnusedSettings(
        keys=("data.eval_split",),
        applies=lambda config, sources: bool(config.data.eval_path),
        reason="--eval-data says already which rows are evaluated",
        hint="Give one or the other.",
    ),
    UnusedSettings(
        keys=("data.labels", "model.fresh_head"),
        applies=lambda config, sources: sources.train.task not in CLASS_TASKS,
        reason="the task is not classify or tokens, and only those have classes and a head for them",
    ),
    UnusedSettings(
        keys=("data.separator",),
        applies=lambda config, sources: not _any_format(sources, lambda each: each is SEPARATED),
        reason="the data are not lines of `input<separator>reference`",
    ),
    UnusedSettings(
        keys=("data.encoding",),
        applies=lambda config, sources: (
            sources.train.task != IMAGE and not _any_format(sources, lambda each: not each.binary)
        ),
        reason="the data are no text files",
    ),
    UnusedSettings(
        keys=("data.loss_on", "data.pack"),
        applies=lambda config, sources: sources.train.encoder_decoder,
        reason="an encoder-decoder reads each source by itself, and learns its target alone",
    ),
    UnusedSettings(
        keys=("data.buckets",),
        applies=lambda config, sources: config.data.pack and sources.evaluation is None,
        reason="--pack fills every sequence to --seq-len",
    ),
    UnusedSettings(
        keys=("model.kwargs",),
        applies=lambda config, sources: not is_factory(config.model.family),
        reason="only a factory of your own takes them",
    ),
    UnusedSettings(
        keys=("model.any_bits",),
        applies=lambda config, sources: config.init_delta is None,
        reason="without --init-delta there is no delta that was trained in other bits",
    ),
    UnusedSettings(
        keys=("optim.decay_all",),
        applies=lambda config, sources: config.optim.weight_decay == 0,
        reason="--weight-decay is 0",
    ),
    UnusedSettings(
        keys=("data.regression",),
        applies=_not_classify,
        reason="the task is not classify, and only that has labels",
    ),
    UnusedSettings(
        keys=("data.loss_on", "eval.max_new_tokens"),
        applies=_not_instruct,
        reason=_NO_PROMPTS,
    ),
    UnusedSettings(
        keys=("eval.samples",),
        # 0 samples are what such a run gives.
        applies=lambda config, sources: sources.train.task not in PROMPTED_TASKS and config.eval.samples > 0,
        reason=_NO_PROMPTS,
    ),
    UnusedSettings(
        keys=tuple(f"preference.{name}" for name in PreferenceConfig.model_fields),
        applies=_not_preference,
        reason="the task is not preference, whose rows have a chosen and a rejected answer, or an answer and a label",
    ),
    UnusedSettings(
        keys=("train.neftune_alpha",),
        applies=lambda config, sources: sources.train.task == IMAGE,
        reason="the net reads pictures, and has no embedded tokens",
    ),
    UnusedSettings(
        keys=tuple(f"image.{name}" for name in ImageConfig.model_fields),
        applies=lambda config, sources: sources.train.task != IMAGE,
        reason="the task is not image, whose rows are pictures with captions",
    ),
    UnusedSettings(
        keys=(
            "data.weights",
            "data.shares",
            "data.format",
            "data.template",
            "data.chat_template_kwargs",
            "data.ignore",
            "data.max_rows",
            "data.on_bad_row",
        ),
        applies=lambda config, sources: sources.train.task == IMAGE,
        reason="the rows are pictures with captions",
    ),
    *(
        UnusedSettings(
            keys=(f"preference.{name}",),
            applies=_unread(name),
            reason=f"only the loss {' or '.join(n for n, kind in PREFERENCE_LOSSES.items() if name in kind.reads)} reads it",
        )
        for name in ("gamma", "label_smoothing", "sft_weight", "desirable_weight", "undesirable_weight")
    ),
    UnusedSettings(
        keys=("data.seq_len",),
        applies=lambda config, sources: sources.train.is_arrays and sources.train.task != IMAGE,
        reason="arrays have no length in tokens",
    ),
    UnusedSettings(
        keys=("data.buckets",),
        applies=lambda config, sources: sources.train.is_arrays,
        reason="arrays have no length in tokens",
    ),
    UnusedSettings(
        keys=("optim.min_lr_ratio",),
        applies=lambda config, sources: not SCHEDULES[config.optim.schedule].ends_low,
        reason=f"the schedule {' or '.join(n for n, kind in SCHEDULES.items() if not kind.ends_low)} ends at the peak rate",
        hint=f"Give --schedule {' or '.join(n for n, kind in SCHEDULES.items() if kind.ends_low)}, or leave it out.",
    ),
)


def require_used_settings(resolved: Resolved, sources: Sources) -> None:
    """Raise one ConfigError with every setting that was given and has no effect in this run."""
    problems, hints = [], []
    for unused in UNUSED:
        given = [key for key in unused.keys if _is_given(resolved, key)]
        if given and unused.applies(resolved.config, sources):
            problems += [f"{as_typed(key, resolved.origins)}: has no effect: {unused.reason}" for key in given]
            hints.append(unused.hint)
    if problems:
        raise ConfigError("\n".join(problems), hint="\n".join(dict.fromkeys(hints)))


def _is_given(resolved: Resolved, key: str) -> bool:
    """Whether the setting has another value than its default: a run's own run.yaml, given as a recipe, states every default."""
    section, _, leaf = key.partition(".")
    part = getattr(resolved.config, section)
    default = type(part).model_fields[leaf].get_default(call_default_factory=True)
    return resolved.given(key) and getattr(part, leaf) != default
