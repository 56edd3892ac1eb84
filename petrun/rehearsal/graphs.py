"""Read collectives and sums of gradients from the graphs that MindSpore prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter", "AlltoAll", "Broadcast", "Send", "Receive")


_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "Float16": 2, "BFloat16": 2, "Int64": 8, "Float64": 8}


def collectives(graphs: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Count collectives: {operator: (how many are in the graphs, bytes that all of them return)}."""
    found: dict[str, tuple[int, int]] = {}
    for text in graphs:
        for name, returned in re.findall(
            rf"^ *%\d+\(.*?\) = (?:PrimFunc_)?({'|'.join(COLLECTIVES)})\(.*\n *: \(.*\) -> (.*)", text, re.MULTILINE
        ):
            count, size = found.get(name, (0, 0))
            found[name] = (count + 1, size + _tensor_bytes(returned))
    return {name: found[name] for name in COLLECTIVES if name in found}


def gradient_sums(graphs: Sequence[str]) -> dict[str, int]:
    """Count how often each parameter's gradient is summed over the same ranks.

    Where zero shards a weight, its gradient is scattered to the ranks that share it and summed over the others that hold it. Each must
    happen once, so the larger number of the two is returned.
    """
    marks = (("AllReduce", "grad_mirror_"), ("ReduceScatter", "grad_parallel_optimizer_"))
    found: Counter[str] = Counter()
    for operator, instance in marks:
        pattern = rf"= (?:PrimFunc_)?{operator}\(.*instance name: {instance}.*mirror_user_id: \"([^\"]*)\""
        found |= Counter(name for text in graphs for name in re.findall(pattern, text))
    return dict(found)


def _tensor_bytes(returned: str) -> int:
    return sum(
        _BYTES.get(kind, 4) * prod(int(n) for n in re.findall(r"\d+", shape))
        for kind, shape in re.findall(r"Tensor\[(\w+)\], \(([\d, ]*)\)", returned)
    )
