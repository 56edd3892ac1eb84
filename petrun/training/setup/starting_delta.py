"""Starts from a delta that is given by --init-delta, or from a fresh one: settings, fit to the net, freezing of everything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.config.load import Resolved
from petrun.delta.method import of_the_run
from petrun.errors import ConfigError
from petrun.graph.freeze import Trainable, freeze_all_but, match_parameters
from petrun.inference.assembly import (
    Assembled,
    attach,
    attach_delta,
    delta_if_given,
    fit_delta,
    head_names,
    set_delta,
    value_of,
)
from petrun.interop.convert import algo_of
from petrun.models.base import LoadedModel, shared_matrices


def read_start(resolved: Resolved) -> tuple[Delta | None, Resolved]:
    """Read --init-delta, whose method holds, whatever the default. Raises ConfigError for another --algo."""
    config = resolved.config
    start = delta_if_given(config.init_delta, None, config.delta_strategy)
    if start is None:
        return None, resolved
    algo = algo_of(start)
    if algo != config.algo:
        if resolved.given("algo"):
            raise ConfigError(
                f"--algo {config.algo} contradicts --init-delta {config.init_delta}, which is a {algo} delta",
                hint="Leave --algo out.",
            )
        method, own = method_of(algo, {} if start.manifest is None else start.config, start.path)
        asked = {
            key: getattr(config.delta, key) for key in type(config.delta).model_fields if resolved.given(f"delta.{key}")
        }
        foreign = [resolved.origins[f"delta.{key}"] for key in asked if key not in method.config.model_fields]
        if foreign:
            raise ConfigError(
                f"{', '.join(foreign)}: is no setting of {algo}, which --init-delta {config.init_delta} is",
                hint=f"Settings of {algo}: {', '.join(method.config.model_fields) or 'none'}.",
            )
        # Compared with the delta's own once these are known.
        settings = own.model_copy(update=asked)
        config = config.model_copy(update={"algo": algo, "delta": settings})
        resolved = Resolved(config, {**resolved.origins, "algo": "init-delta"})
    return start, resolved


def attach_method(
    resolved: Resolved, loaded: LoadedModel, start: Delta | None
) -> tuple[Assembled, Trainable, Resolved]:
    """Attach the method, or the starting delta, to the net and freeze everything that it does not own."""
    config = resolved.config
    also = match_parameters(loaded.net, config.train.train_also, "--train-also")
    if start is None:
        method, settings = method_of(config.algo, config.delta.model_dump(), "the configuration")
        assembled = attach(loaded, method, settings, config.train.seed, head_names(loaded, also))
    else:
        # A MindPet checkpoint does not say its alpha: there the flag is needed, elsewhere it may only agree.
        alpha = (
            getattr(config.delta, "alpha", None)
            if start.origin == "mindpet" and resolved.given("delta.alpha")
            else None
        )
        fitted = _resolve_start_settings(resolved, loaded, fit_delta(start, loaded, alpha))
        _require_whole_matrices(start, fitted, loaded)
        assembled = attach_delta(loaded, fitted, config.train.seed)
        set_delta(assembled, fitted)
        assembled = replace(assembled, heads=tuple(dict.fromkeys((*assembled.heads, *also))))
        ours = [key for key in fitted.config if not of_the_run(type(assembled.config), key)]
        origins = {f"delta.{key}": "init-delta" for key in ours}
        resolved = Resolved(config.model_copy(update={"delta": assembled.config}), {**resolved.origins, **origins})
    return assembled, freeze_all_but(loaded.net, assembled.owned, assembled.method.fixed), resolved


def _require_whole_matrices(start: Delta, fitted: Delta, loaded: LoadedModel) -> None:
    """Raise ConfigError for a peft adapter that trains a part of a matrix, where here the whole matrix would train."""
    why = ""
    if start.origin == "peft" and start.config.get("trainable_token_indices"):
        why = "trainable_token_indices: a few rows of a matrix train"
    for own, ours in shared_matrices(loaded.names).items():
        if own in fitted.tensors and np.array_equal(fitted.tensors[own], value_of(loaded.net, ours)):
            why = f"modules_to_save: {ours} trains, and {own}, which shares it in the base, stays as it is"
    if why:
        raise ConfigError(
            f"--init-delta {start.path}: {why}; petrun would train whole matrices of both",
            hint="Merge it into its base, and start from that: petrun merge.",
        )


def _resolve_start_settings(resolved: Resolved, loaded: LoadedModel, start: Delta) -> Delta:
    """Return the starting delta with the settings of this run: a flag replaces those of the run, such as dropout.

    Raises ConfigError where another flag contradicts the delta's own setting.
    """
    method, own = method_of(start.algo, start.config, start.path)
    net, sites = loaded.net, loaded.sites
    asked = resolved.config.delta
    settings = own.model_dump()
    problems = []
    for key in type(own).model_fields:
        if not resolved.given(f"delta.{key}"):
            continue
        value, mine = getattr(asked, key), settings[key]
        if of_the_run(type(own), key):
            settings[key] = value
        elif key in ("target", "exclude"):
            if method.layers(net, asked, sites) != method.layers(net, own, sites):
                problems.append(
                    f"{resolved.origins[f'delta.{key}']} {','.join(value or ())} names other layers than the delta's"
                )
        elif value != mine:
            problems.append(f"{resolved.origins[f'delta.{key}']} {value} contradicts the delta's {mine}")
    if problems:
        raise ConfigError(
            f"--init-delta {start.path}:\n  " + "\n  ".join(problems),
            hint="Leave these out: the delta's settings hold.",
        )
    return replace(start, config=settings)
