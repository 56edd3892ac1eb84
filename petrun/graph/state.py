"""Make tensors that belong to a parameter: an optimizer's moments, sums of gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.typing import Parameter


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
