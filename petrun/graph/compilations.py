"""Give the object by which MindSpore compiles graphs, and count what it compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import mindspore as ms
from mindspore.nn import cell as cells

from petrun import console
from petrun.typing import Cell, Tensor


def compiling_executor() -> Any:
    """Return the object by which MindSpore compiles cells. The module that defines it has another name in each version."""
    return cells._cell_graph_executor


@lru_cache(maxsize=1)
def show_compiling() -> None:
    """Show on a terminal that a graph is compiled, and for how many seconds, from now on in this process."""
    executor = compiling_executor()
    executor.compile = console.working("compiling")(executor.compile)


class SteadyCall:
    """Calls a cell whose inputs always have the same shapes and dtypes. In GRAPH mode later calls go to the compiled graph at once:
    MindSpore's own call compares the inputs and writes to every cell below, 0.3 ms for a decoder of four layers."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._phase = ""

    def __call__(self, *inputs: Tensor) -> Any:
        if ms.get_context("mode") != ms.GRAPH_MODE:
            return self.cell(*inputs)
        if not self._phase:
            found = self.cell(*inputs)
            self._phase = self.cell.phase
            return found
        return compiling_executor()(self.cell, *inputs, phase=self._phase)


class Count:
    """Holds the number of graphs compiled so far."""

    def __init__(self) -> None:
        self.graphs = 0


@contextmanager
def compilations() -> Iterator[Count]:
    """Count the graphs of cells that are compiled inside the block.

    Every cell that is called in GRAPH mode goes through the executor's `compile`, which says whether it compiled or found the graph.
    """
    executor = compiling_executor()
    before = executor.__dict__.get("compile")
    compile_one = executor.compile
    count = Count()

    def counted(*args: Any, **kwargs: Any) -> Any:
        phase, compiled = compile_one(*args, **kwargs)
        count.graphs += bool(compiled)
        return phase, compiled

    executor.compile = counted
    try:
        yield count
    finally:
        del executor.compile
        if before is not None:
            # The compile cache's.
            executor.compile = before
