"""The C++ operator of the optimizer's update."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mindspore import ops

from petrun.typing import Primitive


@lru_cache
def adamw(library: Path) -> Primitive:
    """weight, m, v, gradient, numbers (9,), own (2,) -> 0 (1,); see optimizer.cpp. No gradient.

    Writes into weight, m and v, which are parameters: MindSpore keeps the order of what reads and writes them.
    """
    operator: Primitive = ops.Custom(
        f"{library}:petrun_adamw", lambda weight, *rest: [1], lambda weight, *rest: weight, func_type="aot"
    )
    written = [ops.signature.make_sig(name, ops.signature.sig_rw.RW_WRITE) for name in ("weight", "m", "v")]
    read = [ops.signature.make_sig(name) for name in ("gradient", "numbers", "own")]
    operator.set_signatures((*written, *read))
    return operator.add_prim_attr("side_effect_mem", True)
