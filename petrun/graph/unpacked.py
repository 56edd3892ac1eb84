"""Call a cell with the inputs that a `construct(..., *inputs)` was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspore import Tensor


def call_with(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
    """Within a graph: function(*inputs).

    MindSpore 2.10 never frees a graph, nor the cells and parameters that it was compiled from, where a function that takes `*inputs`
    unpacks them itself into a call: a process that trains twice would hold both models. Unpacked here they are freed.
    """
    return function(*inputs)
