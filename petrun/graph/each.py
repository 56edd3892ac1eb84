"""Map a function over tuples inside a compiled graph."""

from __future__ import annotations

from mindspore import ops

each = ops.HyperMap()
"""each(function, items, ...): the tuple of function(items[i], ...[i]); `ops.partial(function, value)` gives all of them a first argument.

Not a loop: MindSpore compiles each turn of a loop into a graph inside that of the turn before, and each tuple that is made longer into a
new one, so that its front end takes time (and a depth of calls) that grows with the square of their number.
The items of the first tuple are no tuples themselves: into those MindSpore goes down.
"""
