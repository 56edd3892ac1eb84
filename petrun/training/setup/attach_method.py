"""Attaches the method of a run to its net: a fresh one, or the delta that --init-delta names; everything else is frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta_method import method_of
from petrun.config.schema import RunConfig
from petrun.delta.method import of_the_run
from petrun.errors import ConfigError
from petrun.graph.freeze import Trainable, freeze_all_but, match_parameters
from petrun.graph.noisy_embedding import add_noise
from petrun.inference.assembly import (
    Assembled,
    attach,
    attach_delta,
    head_names,
    require_matching_base,
    set_delta,
    value_of,
)
from petrun.models.base import LoadedModel, shared_matrices
from petrun.training.setup.starting_delta import StartingDelta


def attach_method(config: RunConfig, loaded: LoadedModel, start: StartingDelta | None) -> tuple[Assembled, Trainable]:
    """Attach the method, or the starting delta, to the net and freeze everything that it does not own.

    Raises ConfigError where flags contradict the starting delta, and DeltaError where it belongs to another base.
    """
    also = match_parameters(loaded.net, config.train.train_also, "--train-also")
    if start is None:
        method, settings = method_of(config.algo, config.delta.model_dump(), "the configuration")
        assembled = attach(loaded, method, settings, config.train.seed, head_names(loaded, also))
    else:
        require_matching_base(start.fitted, loaded.content, loaded.any_bits)
        _require_agreeing_flags(start, loaded)
        _require_whole_matrices(start, loaded)
        assembled = attach_delta(loaded, start.fitted, config.train.seed)
        set_delta(assembled, start.fitted)
        assembled = replace(assembled, heads=tuple(dict.fromkeys((*assembled.heads, *also))))
    trainable = freeze_all_but(loaded.net, assembled.owned, assembled.method.fixed)
    if config.train.neftune_alpha is not None:
        add_noise(loaded.net, loaded.sites, config.train.neftune_alpha, config.train.seed)
    return assembled, trainable


def _require_agreeing_flags(start: StartingDelta, loaded: LoadedModel) -> None:
    """Raise one ConfigError with every setting that was given and contradicts the delta's own. The net says which layers are meant."""
    method, own = method_of(start.fitted.algo, start.fitted.config, start.read.path)
    net, sites, given = loaded.net, loaded.sites, start.given
    asked = given.config.delta
    problems = []
    for key in type(own).model_fields:
        if not given.given(f"delta.{key}") or of_the_run(type(own), key):
            continue
        value, mine, flag = getattr(asked, key), getattr(own, key), given.origins[f"delta.{key}"]
        if key in ("target", "exclude"):
            if method.layers(net, asked, sites) != method.layers(net, own, sites):
                problems.append(f"{flag} {','.join(value or ())} names other layers than the delta's")
        elif value != mine:
            problems.append(f"{flag} {value} contradicts the delta's {mine}")
    if problems:
        raise ConfigError(
            f"--init-delta {start.read.path}:\n  " + "\n  ".join(problems),
            hint="Leave these out: the delta's settings hold.",
        )


def _require_whole_matrices(start: StartingDelta, loaded: LoadedModel) -> None:
    """Raise ConfigError for a peft adapter that trains a part of a matrix, where here the whole matrix would train."""
    why = ""
    if start.read.origin == "peft" and start.read.config.get("trainable_token_indices"):
        why = "trainable_token_indices: a few rows of a matrix train"
    for own, ours in shared_matrices(loaded.names).items():
        if own in start.fitted.tensors and np.array_equal(start.fitted.tensors[own], value_of(loaded.net, ours)):
            why = f"modules_to_save: {ours} trains, and {own}, which shares it in the base, stays as it is"
    if why:
        raise ConfigError(
            f"--init-delta {start.read.path}: {why}; petrun would train whole matrices of both",
            hint="Merge it into its base, and start from that: petrun merge.",
        )
