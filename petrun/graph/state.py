"""Make the tensors of a training step: those that belong to a parameter, such as an optimizer's moments, and single numbers."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor


def zeros_beside(parameter: Parameter, prefix: str) -> Parameter:
    """Return zeros of the parameter's shape, float32, named `prefix` + its name.

    Cloned, because that is how MindSpore knows that such a tensor is sharded over ranks as its parameter is.
    """
    beside = parameter.clone()
    beside.set_dtype(ms.float32)
    beside.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    beside.name = prefix + parameter.name
    beside.requires_grad = False
    return beside


def number(name: str, value: float | int | Tensor) -> Parameter:
    """Return a parameter of one number, which every rank has: float32, or of the type of a tensor.

    A graph takes it as an input, so another value needs no other graph.
    """
    tensor = value if isinstance(value, Tensor) else Tensor(value, ms.float32)
    parameter = Parameter(tensor, name=name, requires_grad=False)
    # MindSpore crashes where it shards a scalar over the ranks of an optimizer that is split.
    parameter.parallel_optimizer = False
    return parameter


def set_number(parameter: Parameter, value: float) -> None:
    """Give a parameter of one number another value."""
    parameter.set_data(Tensor(value, parameter.dtype))
