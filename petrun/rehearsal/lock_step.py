"""Execute the graphs of all ranks of a job together: ranks meet in collectives, and what never meets is named."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.interpreter import Exchange
from petrun.rehearsal.operators.types import Value, computed, widened
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array

Run = Generator[Exchange, Array, Value]
Mail = dict[tuple[int, int, str], deque[Array]]
"""(sender, receiver, tag) -> what was sent and not yet received."""
_WORLD = "hccl_world_group"


def run_together(runs: Mapping[int, Run], world: int) -> dict[int, Value]:
    """Run all ranks to their ends and return what each returns.

    Raises SetupError where ranks wait for ever: a Receive without its Send, ranks that meet in different collectives, in other shapes, or
    not at all; and where something was sent that nobody receives.
    """
    results: dict[int, Value] = {}
    waiting: dict[int, Exchange] = {}
    mail: Mail = {}

    def advance(rank: int, value: Array | None) -> None:
        """Run one rank up to its next collective that has to wait."""
        waiting.pop(rank, None)
        try:
            found = runs[rank].send(value)  # type: ignore[arg-type]
            while found.node.operator == "Send":
                mail.setdefault(_letter(rank, found.node), deque()).append(found.value)
                found = runs[rank].send(found.value)
            waiting[rank] = found
        except StopIteration as end:
            results[rank] = end.value

    for rank in runs:
        advance(rank, None)
    while waiting:
        moved = _met(waiting, mail, world)
        if not moved:
            raise SetupError(f"the ranks wait for ever: {'; '.join(_stuck(waiting, results, world))}")
        for rank, value in moved.items():
            advance(rank, value)
    left = [key for key, letters in mail.items() if letters]
    if left:
        sender, receiver, tag = left[0]
        raise SetupError(
            f"rank {sender} sends to rank {receiver} (tag {tag}) what nobody receives: a Send without its Receive"
        )
    return results


def _met(waiting: Mapping[int, Exchange], mail: Mail, world: int) -> dict[int, Array]:
    """Return the results of ranks whose collective is complete."""
    for rank, exchange in waiting.items():
        node = exchange.node
        if node.operator == "Receive":
            letters = mail.get(_letter(rank, node))
            if letters:
                return {rank: letters.popleft()}
            continue
        group = members(node, world)
        if rank not in group:
            raise SetupError(f"rank {rank}: {_where(node)} is of ranks {_list(group)}, and it is none of them")
        if all(_same(node, waiting[other].node, group, world) for other in group if other in waiting) and all(
            other in waiting for other in group
        ):
            _require_one_collective(group, waiting)
            found = COMPUTED[node.operator](node, [waiting[other].value for other in group])
            return {other: computed(found[i], waiting[other].node.results[0]) for i, other in enumerate(group)}
    return {}


def members(node: Node, world: int) -> tuple[int, ...]:
    """Return the ranks of a collective, in the order of its group. Raises SetupError where the graph does not name them."""
    named = node.attributes.get("group_rank_ids") or node.attributes.get("rank_list")
    if isinstance(named, tuple):
        return tuple(int(rank) for rank in named)
    if node.attributes.get("group") == _WORLD:
        return tuple(range(world))
    raise SetupError(f"{_where(node)}: the graph does not say which ranks are in group {node.attributes.get('group')}")


def _same(node: Node, other: Node, group: Sequence[int], world: int) -> bool:
    return (
        other.operator == node.operator
        and members(other, world) == tuple(group)
        and other.attributes.get("op") == node.attributes.get("op")
    )


def _require_one_collective(group: Sequence[int], waiting: Mapping[int, Exchange]) -> None:
    """Raise SetupError where ranks meet in collectives of different layers, which cards would mix up silently, or with other shapes."""
    first = group[0]
    other = next((rank for rank in group if waiting[rank].node.layer != waiting[first].node.layer), None)
    if other is not None:
        raise SetupError(
            f"rank {first} at {_where(waiting[first].node)} meets rank {other} at {_where(waiting[other].node)}: a collective before it is "
            "missing on one of them"
        )
    if len({waiting[rank].value.shape for rank in group}) > 1:
        found = ", ".join(f"rank {rank} with {waiting[rank].value.shape}" for rank in group)
        raise SetupError(f"{_where(waiting[first].node)}: the ranks meet with different shapes: {found}")


def _letter(rank: int, node: Node) -> tuple[int, int, str]:
    """Return who sends to whom, and the tag. In MindSpore's graph both ends are ranks of the node's group."""
    named = node.attributes.get("group_rank_ids") or node.attributes.get("rank_list")
    other = int(str(node.attributes["dest_rank" if node.operator == "Send" else "src_rank"]))
    peer = int(named[other]) if isinstance(named, tuple) else other
    tag = str(node.attributes.get("sr_tag"))
    return (rank, peer, tag) if node.operator == "Send" else (peer, rank, tag)


def _stuck(waiting: Mapping[int, Exchange], results: Mapping[int, Value], world: int) -> list[str]:
    """Say where each rank waits and for whom, the first four."""
    lines = []
    for rank, exchange in sorted(waiting.items()):
        node = exchange.node
        if node.operator == "Receive":
            sender = _letter(rank, node)[0]
            lines.append(f"rank {rank} at {_where(node)} waits for rank {sender}, which sends nothing")
            continue
        away = [
            f"rank {other} {'has ended' if other in results else 'is at ' + _where(waiting[other].node)}"
            for other in members(node, world)
            if other in results
            or (other in waiting and not _same(node, waiting[other].node, members(node, world), world))
        ]
        lines.append(f"rank {rank} at {_where(node)} over ranks {_list(members(node, world))}, but {', '.join(away)}")
    return lines[:4] + ([f"and {len(lines) - 4} more"] if len(lines) > 4 else [])


def _where(node: Node) -> str:
    return f"{node.operator} of {node.layer}"


def _list(ranks: Sequence[int]) -> str:
    return ",".join(map(str, ranks))


def all_reduce(node: Node, values: Sequence[Array]) -> list[Array]:
    """The sum, largest, smallest or product of all values, for each rank."""
    found = _reduced(node, values)
    return [found] * len(values)


def reduce_scatter(node: Node, values: Sequence[Array]) -> list[Array]:
    """The sum of all values, along the first axis a part for each rank."""
    return list(np.split(_reduced(node, values), len(values), 0))


def all_gather(node: Node, values: Sequence[Array]) -> list[Array]:
    """All values joined along the first axis, for each rank."""
    return [np.concatenate(values, 0)] * len(values)


def broadcast(node: Node, values: Sequence[Array]) -> list[Array]:
    """The value of one rank, for each."""
    return [values[int(str(node.attributes.get("root_rank", 0)))]] * len(values)


def all_to_all(node: Node, values: Sequence[Array]) -> list[Array]:
    """Part i of every rank's value along one axis, joined along another, for rank i."""
    split, join = (int(str(node.attributes[name])) for name in ("split_dim", "concat_dim"))
    parts = [np.split(value, len(values), split) for value in values]
    return [np.concatenate([part[i] for part in parts], join) for i in range(len(values))]


_REDUCE: dict[str, Callable[..., Array]] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}


def _reduced(node: Node, values: Sequence[Array]) -> Array:
    wide = [widened(value) for value in values]
    total = wide[0]
    for value in wide[1:]:
        total = _REDUCE[str(node.attributes["op"])](total, value)
    return total


COMPUTED: dict[str, Callable[[Node, Sequence[Array]], list[Array]]] = {
    "AllReduce": all_reduce,
    "AllGather": all_gather,
    "ReduceScatter": reduce_scatter,
    "Broadcast": broadcast,
    "AlltoAll": all_to_all,
}
"""Collective -> what each rank of the group gets, in the group's order."""
