"""Read the state of a training step from its parameters, and restore it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mindspore import Tensor

from petrun.checkpoint.training_state import State
from petrun.errors import TrainingError
from petrun.inference.assembly import Assembled
from petrun.tensors import Array
from petrun.tensors.sharded.rank_files import ShardSpec
from petrun.train.step import TrainStep
from petrun.typing import Parameter

_MOVING = ("moving_mean", "moving_variance")
"""Statistics of batch normalisation: no gradient reaches them, and yet training changes them."""
_SUMS = ("grad_sum.", "accu_grads.")
"""Accumulated gradients: 0 between two optimizer steps, which is when a state is saved."""
_INPUTS = ("denominator", "part_scale", "tied_share")
"""Inputs of a pipeline's graph, which are parameters that the step itself sets."""
_SETTINGS = "optim."
"""Settings that the graph takes as inputs: a run that resumes has its own."""


Parameters = Mapping[str, Parameter]
"""Parameters by name."""


def state_parameters(step: TrainStep, assembled: Assembled) -> Parameters:
    """Return the parameters that training changes: trained and owned ones, the optimizer's, the loss scale's, and the method's own."""
    base = {p.name for p in assembled.loaded.net.get_parameters()}
    owned = set(assembled.owned)

    def changes(p: Parameter) -> bool:
        if p.name not in base:
            return not p.name.startswith((*_SUMS, _SETTINGS)) and p.name not in _INPUTS
        return p.name in owned or p.requires_grad or p.name.rpartition(".")[2] in _MOVING

    return {p.name: p for p in step.get_parameters() if changes(p)}


def read_values(parameters: Parameters) -> dict[str, Array]:
    """Return the values that the parameters have until the next step: on the CPU they are the parameters' own memory."""
    return {name: p.asnumpy() for name, p in parameters.items()}


def on_this_rank(parameters: Parameters, shards: ShardSpec | None) -> Parameters:
    """Return the parameters that this rank holds: those of its pipeline stage."""
    return parameters if shards is None else {name: p for name, p in parameters.items() if name in shards.layouts}


def restore(parameters: Parameters, state: State, shards: ShardSpec | None = None) -> None:
    """Set every parameter to the state's value, or with `shards` to this rank's shard of it.

    Raises TrainingError, before any is changed, where names, shapes or types differ.
    """
    expected = {
        name: (_full_shape(name, p, shards), np.array(p.asnumpy()).dtype.name) for name, p in parameters.items()
    }
    # Other pipeline stages hold tensors that this one does not.
    others = state.shapes if shards is None or shards.stages == 1 else {}
    wrong = sorted(name for name in {*expected, *others} if expected.get(name) != state.shapes.get(name))
    if wrong:
        name = wrong[0]
        raise TrainingError(
            f"{state.path}: does not fit this run: {name} is {_text(state.shapes.get(name))} there and "
            f"{_text(expected.get(name))} here ({len(wrong)} tensors differ)",
            hint="Resume with the settings that the run was begun with.",
        )
    for name, parameter in parameters.items():
        values = state.read(name) if shards is None else shards.shard(name, state.read(name))
        parameter.set_data(Tensor(np.ascontiguousarray(values).reshape(parameter.shape), parameter.dtype))


def _full_shape(name: str, parameter: Parameter, shards: ShardSpec | None) -> tuple[int, ...]:
    return tuple(parameter.shape) if shards is None else shards.layouts[name].full_shape(parameter.shape)


def _text(found: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if found is None else f"{found[1]} ({', '.join(map(str, found[0]))})"
