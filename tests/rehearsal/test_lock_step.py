"""Ranks that meet in collectives, in graphs written here: what each gets, and what ends in an error."""

import numpy as np
import pytest

from petrun.errors import SetupError
from petrun.rehearsal.interpreter import Exchange
from petrun.rehearsal.lock_step import run_together
from petrun.rehearsal.step_graph import Node, TensorType


def node(operator, layer, shape=(2,), dtype="float32", **attributes):
    return Node(
        name=operator, operator=operator, inputs=(), attributes=attributes, scope=f"Default/net-Net/{layer}-Dense/{operator}-op0",
        results=(TensorType(dtype, shape),),
    )  # fmt: skip


def rank(*exchanges):
    """A rank that comes to these collectives with these values, and returns what it got."""
    got = []
    for own, value in exchanges:
        got.append((yield Exchange(own, np.asarray(value, np.float32))))
    return got


def meet(*ranks):
    return run_together(dict(enumerate(ranks)), len(ranks))


def group(operator, layer="a", ranks=(0, 1), shape=(2,), **more):
    return node(operator, layer, shape, group="2-1", group_rank_ids=ranks, **more)


def test_what_each_rank_gets():
    values = ([1, 2], [10, 20])
    for operator, more, expected in (
        ("AllReduce", {"op": "sum"}, ([11, 22], [11, 22])),
        ("AllReduce", {"op": "max"}, ([10, 20], [10, 20])),
        ("ReduceScatter", {"op": "sum", "shape": (1,)}, ([11], [22])),
        ("AllGather", {"shape": (4,)}, ([1, 2, 10, 20], [1, 2, 10, 20])),
        ("Broadcast", {"root_rank": 1}, ([10, 20], [10, 20])),
        ("AlltoAll", {"split_dim": 0, "concat_dim": 0}, ([1, 10], [2, 20])),
    ):
        found = meet(*(rank((group(operator, **more), value)) for value in values))
        for own, wanted in enumerate(expected):
            np.testing.assert_array_equal(found[own][0], wanted, operator)


def test_groups_go_on_by_themselves():
    """Ranks 0 and 1 meet twice while 2 and 3 meet once, then all four."""
    total = group("AllReduce", ranks=(0, 1, 2, 3), op="sum", layer="all")
    first, second = group("AllReduce", op="sum"), group("AllReduce", ranks=(2, 3), op="sum")
    found = meet(
        rank((first, [1, 1]), (first, [2, 2]), (total, [1, 0])), rank((first, [1, 1]), (first, [2, 2]), (total, [1, 0])),
        rank((second, [5, 5]), (total, [1, 0])), rank((second, [6, 6]), (total, [1, 0])),
    )  # fmt: skip
    assert [own[-1].tolist() for own in found.values()] == [[4, 0]] * 4
    assert found[2][0].tolist() == [11, 11]


def send(to, tag=0):
    return group("Send", dest_rank=to, sr_tag=tag)


def receive(source, tag=0):
    return group("Receive", src_rank=source, sr_tag=tag)


def test_what_is_sent_waits_for_its_receiver():
    found = meet(rank((send(1), [1, 2]), (send(1, 1), [3, 4])), rank((receive(0, 1), [0, 0]), (receive(0), [0, 0])))
    assert [value.tolist() for value in found[1]] == [[3, 4], [1, 2]]


def test_half_precision_is_summed_in_float32():
    own = group("AllReduce", op="sum", shape=(1,), dtype="float16")
    found = run_together({i: rank((own, np.float16([v]))) for i, v in enumerate((2048.0, 1.0))}, 2)
    assert found[0][0].dtype == np.float16 and found[0][0].tolist() == [2048.0]


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ((rank((receive(1), [0, 0])), rank()), "rank 0 at Receive of a waits for rank 1, which sends nothing"),
        ((rank((send(1), [0, 0])), rank()), "rank 0 sends to rank 1 .* nobody receives"),
        ((rank((group("AllReduce", op="sum"), [1, 2])), rank()), "rank 0 at AllReduce of a over ranks 0,1, but rank 1 has ended"),
        (
            (rank((group("AllReduce", op="sum"), [1, 2])), rank((group("AllGather", "b"), [1, 2]))),
            "rank 0 at AllReduce of a over ranks 0,1, but rank 1 is at AllGather of b",
        ),
        (
            (rank((group("AllReduce", op="sum"), [1, 2])), rank((group("AllReduce", "b", op="sum"), [1, 2]))),
            "rank 0 at AllReduce of a meets rank 1 at AllReduce of b",
        ),
        (
            (rank((group("AllReduce", op="sum"), [1, 2])), rank((group("AllReduce", op="sum"), [1]))),
            "different shapes: rank 0 with .2,., rank 1 with .1,.",
        ),
        ((rank((group("AllReduce", op="sum", ranks=(1, 2)), [1, 2])), rank()), "of ranks 1,2, and it is none of them"),
    ],
)  # fmt: skip
def test_ranks_that_never_meet_are_named(ranks, words):
    with pytest.raises(SetupError, match=words):
        meet(*ranks)
