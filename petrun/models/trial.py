"""Run one forward pass of a user's own net before anything is trained or scored, so that its errors appear early, with its lines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from mindspore import Tensor

from petrun.errors import ModelError
from petrun.mindspore_messages import first_line
from petrun.models.base import LoadedModel
from petrun.models.factory import UserCode
from petrun.tensors import Array


def try_net(
    loaded: LoadedModel,
    batch: Mapping[str, Array],
    classes: int | None,
    eager: Callable[[], AbstractContextManager[None]],
    *,
    regression: bool = False,
) -> None:
    """Run the net of a module:function on a batch, operator by operator and then compiled.

    `batch`: its inputs by name, first axis B. `classes`: labels of the data are below this; `regression`: they are numbers.
    `eager`: the mode without compilation.
    Raises ModelError: its construct fails, naming the line; it does not compile; its result is not (B, C) with C >= classes,
    or for `regression` (B, 1).
    """
    inputs = tuple(Tensor(batch[name]) for name in loaded.inputs)
    _check_arguments(loaded)
    file = inspect.getsourcefile(type(loaded.net)) or ""
    with eager(), UserCode(loaded.family, file):
        result = loaded.net(*inputs)
    _check_logits(loaded, result, len(inputs[0]), classes, regression)
    with UserCode(loaded.family, file, _graph_fault):
        loaded.net(*inputs)


def _check_arguments(loaded: LoadedModel) -> None:
    signature = inspect.signature(loaded.net.construct)
    try:
        signature.bind(*loaded.inputs)
    except TypeError as error:
        raise ModelError(
            f"--model {loaded.family}: its net's construct{signature} is given {', '.join(loaded.inputs) or 'nothing'}: {error}",
            hint='Name the arrays it takes, in order: inputs = ("x",) in the cell\'s class.',
        ) from error


def _check_logits(loaded: LoadedModel, result: object, rows: int, classes: int | None, regression: bool) -> None:
    if not isinstance(result, Tensor):
        raise ModelError(
            f"--model {loaded.family}: its net returns {type(result).__name__}",
            hint="It must return logits, a tensor (B, C): B rows, C classes.",
        )
    shape = tuple(result.shape)
    if len(shape) != 2 or shape[0] != rows:
        raise ModelError(
            f"--model {loaded.family}: its net returns {shape} for {rows} rows",
            hint="It must return logits (B, C): B rows, C classes.",
        )
    # Without labels (classes None) one output may be what the net was made for.
    if regression and shape[1] != 1:
        raise ModelError(
            f"--model {loaded.family}: its net has {shape[1]} outputs, the labels are numbers to predict",
            hint="Such a net has one output, (B, 1). Where the labels are classes: --set data.regression=false",
        )
    if not regression and classes is not None and shape[1] < max(2, classes):
        raise ModelError(
            f"--model {loaded.family}: its net has {shape[1]} outputs, the data {classes} classes",
            hint="One output a class; --set model.kwargs.NAME=VALUE reaches your function.",
        )


def _graph_fault(error: BaseException, file: str) -> str:
    """Return the line of the user's file at which MindSpore's compiler fails, and its message."""
    text = str(error)
    first = first_line(text) or type(error).__name__
    lines = re.findall(r"In file (\S+?):(\d+)", text)
    theirs = [f"{name}:{number}" for name, number in lines if name == file]
    return f"{theirs[-1] if theirs else file}: does not compile: {first}"
