"""Build the runs of a sweep: those that differ in numbers of the optimizer alone share one net and one compiled step.

Such a number is an input of the graph (petrun.graph.state.number). A run that takes the step over starts from the values that all of them
were built with, so it computes what its own step would, to the bit.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor

from petrun.config.schema import RunConfig
from petrun.evaluate.score import Scorer
from petrun.tensors import Array
from petrun.training.checkpointing import snapshot
from petrun.training.setup.build_step import set_numbers
from petrun.training.setup.resolve import ResolvedRun
from petrun.training.setup.training_setup import TrainingSetup, build_training

_NUMBERS = ("lr", "warmup", "weight_decay", "beta1", "beta2", "eps", "min_lr_ratio")


def graph_of(config: RunConfig) -> str:
    """Return the settings without those that are numbers of the optimizer: equal texts are runs that share a graph."""
    settings = config.model_dump(mode="json", exclude={"out": True, "optim": set(_NUMBERS)})
    settings["optim"]["clip"] = config.optim.clip > 0
    return json.dumps(settings, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class _Built:
    graph: str
    setup: TrainingSetup
    initial: Mapping[str, Array]
    """Values before the first step of all that training changes."""


class SharedGraph:
    """Builds each run, from what was built for the one before where both share a graph."""

    def __init__(self) -> None:
        self._built: _Built | None = None

    def build(self, resolved: ResolvedRun, graph: str) -> TrainingSetup:
        """Return the run up to its first step. `graph`: as `graph_of` has it. What was returned before is of no use afterwards.

        Raises as build_training.
        """
        if self._built is None or self._built.graph != graph:
            self._built = None
            # Two bases at a time would take twice the memory.
            gc.collect()
            setup = build_training(resolved, scored=True)
            initial = {name: np.array(p.asnumpy()) for name, p in _changing(setup).items()}
            self._built = _Built(graph=graph, setup=_with_scorer(setup), initial=initial)
            return self._built.setup
        built = self._built
        for name, parameter in _changing(built.setup).items():
            parameter.set_data(Tensor(built.initial[name], parameter.dtype))
        set_numbers(built.setup.step, resolved.config.optim, resolved.schedule)
        # The rows are the same, and may have what the base said of them; so is the scorer, whose graphs are compiled.
        return replace(built.setup, resolved=replace(resolved, sources=built.setup.resolved.sources))


def _changing(setup: TrainingSetup) -> snapshot.Parameters:
    """Return what a state holds, and the sums of gradients, which a run may leave behind in the middle of a step."""
    sums = {p.name: p for p in setup.step.sums}
    return {**snapshot.state_parameters(setup.step, setup.assembled), **sums}


def _with_scorer(setup: TrainingSetup) -> TrainingSetup:
    """Return the run with a scorer that the evaluators of all runs use."""
    sources, loaded = setup.resolved.sources, setup.assembled.loaded
    if sources.evaluation is None or sources.scorer is not None:
        return setup
    scorer = Scorer(loaded.net, loaded.inputs, sources.train.task)
    return replace(setup, resolved=replace(setup.resolved, sources=replace(sources, scorer=scorer)))
