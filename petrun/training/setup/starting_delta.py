"""Resolves the method of a run: a fresh one's settings, or those of the delta that --init-delta names, which hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.delta.method import of_the_run
from petrun.errors import ConfigError
from petrun.inference.assembly import delta_if_given, fit_delta, open_base, with_form_of
from petrun.inference.stored_base import stored_base
from petrun.interop.convert import algo_of
from petrun.models.factory import is_factory
from petrun.parallel.context import Device
from petrun.training.setup.sources import Sources

Fit = Callable[[Delta, float | None], Delta]
"""(a delta as read, LoRA's alpha where the file does not say it) -> the delta in the net's names, with its settings."""


@dataclass(frozen=True, kw_only=True)
class StartingDelta:
    """Holds the delta that a run starts from."""

    read: Delta
    """As its file has it."""
    fitted: Delta
    """In the net's names, with the settings of this run."""
    given: Resolved
    """The settings as the user gave them, which the delta's must not contradict."""


def read_start(given: Resolved) -> Delta | None:
    """Read --init-delta. Raises ConfigError for another --algo, and for settings that its method does not have."""
    config = given.config
    start = delta_if_given(config.init_delta, None, config.delta_strategy)
    if start is None or (algo := algo_of(start)) == config.algo:
        return start
    if given.given("algo"):
        raise ConfigError(
            f"--algo {config.algo} contradicts --init-delta {config.init_delta}, which is a {algo} delta",
            hint="Leave --algo out.",
        )
    known = find_method(algo).config.model_fields
    foreign = [
        given.origins[f"delta.{key}"]
        for key in type(config.delta).model_fields
        if given.given(f"delta.{key}") and key not in known
    ]
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)}: is no setting of {algo}, which --init-delta {config.init_delta} is",
            hint=f"Settings of {algo}: {', '.join(known) or 'none'}.",
        )
    return start


def algo_to_train(given: Resolved, start: Delta | None) -> str:
    """Return the name of the run's method: the starting delta's, whatever the default."""
    return given.config.algo if start is None else algo_of(start)


def resolve_algorithm(given: Resolved, start: Delta | None) -> Resolved:
    """Return the settings with the starting delta's method, and what was given of its settings."""
    algo = algo_to_train(given, start)
    model = with_form_of(given.config.model, [start])
    if model.quant != given.config.model.quant:
        given = given.settle({"model.quant": model.quant}, "init-delta")
    if start is None or algo == given.config.algo:
        return given
    asked = given.config.delta
    # Compared with the delta's own once these are known.
    kept = {key: getattr(asked, key) for key in type(asked).model_fields if given.given(f"delta.{key}")}
    _, own = method_of(algo, {} if start.manifest is None else start.config, start.path)
    return given.settle({"delta": own.model_copy(update=kept)}).settle({"algo": algo}, "init-delta")


def resolve_text(settings: Resolved, tokenizer: Tokenizer | None) -> Resolved:
    """Replace text in the method's settings by the tokens that it stands for."""
    encode = partial(tokenizer.encode, special=False) if tokenizer is not None else None
    return settings.settle({"delta": find_method(settings.config.algo).prepare(settings.config.delta, encode)})


def fit_to_base(config: RunConfig, device: Device, sources: Sources) -> Fit:
    """Return what fits a delta of another tool to the base's names, by its config.json and the headers of its files.

    Only the net of the user's own function has names that no file says: for such a delta the function is called here as well.
    """
    model = config.model

    def fit(delta: Delta, alpha: float | None) -> Delta:
        if delta.algo:
            return delta
        if not is_factory(model.family):
            return stored_base(model, sources.task).fit(delta, alpha)
        rows = sources.train
        loaded = open_base(model, device, task=sources.task, num_labels=rows.num_labels, seed=config.train.seed)
        return fit_delta(delta, loaded, alpha)

    return fit


def resolve_start(settings: Resolved, start: Delta | None, fit: Fit) -> tuple[Resolved, StartingDelta | None]:
    """Return the settings with the starting delta's own, if there is one, but for those of the run that were given, such as dropout.

    Raises DeltaError where it does not fit the base.
    """
    if start is None:
        return settings, None
    # A MindPet checkpoint does not say its alpha: there the flag is needed, elsewhere it may only agree.
    needed = start.origin == "mindpet" and settings.given("delta.alpha")
    fitted = fit(start, getattr(settings.config.delta, "alpha", None) if needed else None)
    _, own = method_of(fitted.algo, fitted.config, start.path)
    theirs = [key for key in type(own).model_fields if not of_the_run(type(own), key)]
    changed = {
        key: getattr(settings.config.delta, key)
        for key in type(own).model_fields
        if key not in theirs and settings.given(f"delta.{key}")
    }
    fitted = replace(fitted, config={**own.model_dump(), **changed})
    _, delta = method_of(fitted.algo, fitted.config, start.path)
    resolved = settings.settle({"delta": delta})
    resolved = resolved.settle({f"delta.{key}": getattr(delta, key) for key in theirs}, "init-delta")
    return resolved, StartingDelta(read=start, fitted=fitted, given=settings)
