"""Which parameters of a training step are its state, and how they are taken out and put back."""

from __future__ import annotations

from typing import Any

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
"""Of batch normalisation: no gradient reaches them, and yet training moves them."""
_SUMS = ("grad_sum.", "accu_grads.")
"""Accumulated gradients: 0 between two optimizer steps, which is when a state is saved."""
_INPUTS = ("denominator", "part_scale")
"""Set anew at every step: what a pipeline's graph takes no other way."""


def parameters_of(step: TrainStep, assembled: Assembled) -> dict[str, Any]:
    """Name -> Parameter: what training changes. Trained and owned ones, the optimizer's, the loss scale's, and the method's own."""
    base = {p.name for p in assembled.loaded.net.get_parameters()}
    owned = set(assembled.owned)

    def changes(p: Any) -> bool:
        if p.name not in base:
            return not p.name.startswith(_SUMS) and p.name not in _INPUTS
        return p.name in owned or p.requires_grad or p.name.rpartition(".")[2] in _MOVING

    return {p.name: p for p in step.get_parameters() if changes(p)}


def take(parameters: dict[str, Any]) -> dict[str, Array]:
    """Values as they are now, in memory of their own."""
    return {name: np.array(p.asnumpy()) for name, p in parameters.items()}


def held(parameters: dict[str, Any], cut: ShardSpec | None) -> dict[str, Any]:
    """Those of them that this rank holds: its pipeline stage's."""
    return parameters if cut is None else {name: p for name, p in parameters.items() if name in cut.layouts}


def put(parameters: dict[str, Any], state: State, cut: ShardSpec | None = None) -> None:
    """Set every parameter to the state's value, or where they are cut already to this rank's piece of it.

    Raises TrainingError, before any is changed, where names, shapes or types differ.
    """
    expected = {name: (_whole(name, p, cut), np.array(p.asnumpy()).dtype.name) for name, p in parameters.items()}
    # Other pipeline stages hold what this one does not.
    others = state.shapes if cut is None or cut.stages == 1 else {}
    wrong = sorted(name for name in {*expected, *others} if expected.get(name) != state.shapes.get(name))
    if wrong:
        name = wrong[0]
        raise TrainingError(
            f"{state.path}: does not fit this run: {name} is {_text(state.shapes.get(name))} there and "
            f"{_text(expected.get(name))} here ({len(wrong)} tensors differ)",
            hint="Go on with the settings that the run was begun with.",
        )
    for name, parameter in parameters.items():
        values = state.read(name) if cut is None else cut.piece(name, state.read(name))
        parameter.set_data(Tensor(np.ascontiguousarray(values).reshape(parameter.shape), parameter.dtype))


def _whole(name: str, parameter: Parameter, cut: ShardSpec | None) -> tuple[int, ...]:
    """The shape of the whole parameter."""
    return tuple(parameter.shape) if cut is None else cut.layouts[name].full_shape(parameter.shape)


def _text(found: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if found is None else f"{found[1]} ({', '.join(map(str, found[0]))})"
