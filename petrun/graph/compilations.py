"""Give the object by which MindSpore compiles graphs, and count what it compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mindspore.nn import cell as cells


def compiling_executor() -> Any:
    """Return the object by which MindSpore compiles cells. The module that defines it has another name in each version."""
    return cells._cell_graph_executor


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
