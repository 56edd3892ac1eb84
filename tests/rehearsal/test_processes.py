"""What is read out of MindSpore's graphs and of its refusals."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.parallel.front_end import FRONT_END_ERRORS, front_end_reason
from petrun.rehearsal.graphs import collectives, gradient_sums

GRAPH = """
subgraph @17() {
  %3(CNode_8) = PrimFunc_AllReduce(%1, "sum", group: "hccl_world_group") cnode_attrs: {}
      : (<Tensor[Float32], (3584)>) -> (<Tensor[Float32], (3584)>)
  %4(CNode_9) = AllGather(%3) {instance name: allgather}
      : (<Tensor[BFloat16], (2, 8)>) -> (<Tensor[BFloat16], (8, 8)>)
  %5(CNode_10) = PrimFunc_Add(%3, %4)
      : (<Tensor[Float32], (9)>, <Tensor[Float32], (9)>) -> (<Tensor[Float32], (9)>)
  %6(CNode_11) = PrimFunc_AllReduce(%1)
      : (<Tensor[Float32], ()>) -> (<Tensor[Float32], ()>)
"""
LOG = """\
[ERROR] ME(1:2,MainProcess):2026-01-01-00:00:00 [mindspore/run_check/_check_version.py:350] CheckFailed: No module named 'te'
[ERROR] PARALLEL(7,7f,python):00:01.1 [x/operator_info.cc:99] CheckStrategy] MatMul: shape value 64 cannot be divisible by strategy value 3
[ERROR] PARALLEL(7,7f,python):00:01.2 [x/operator_info.cc:12] InitForCostModel] MatMul: Init failed.
"""
RAISED = """Failure:operator MatMul init failed

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
In file /home/me/net.py:12, 8~30
"""


def test_collectives_are_counted_with_their_bytes():
    assert collectives([GRAPH, GRAPH]) == {"AllReduce": (4, 2 * (3584 * 4 + 4)), "AllGather": (2, 2 * 64 * 2)}
    assert collectives([]) == {}


def test_sums_of_gradients_are_counted_by_parameter():
    line = '  %1(real_grad) = AllReduce(%0) {instance name: grad_mirror_Op} cnode_attrs: {mirror_user_id: "q.weight"}\n'
    assert gradient_sums([line + line, line.replace("q.", "k.")]) == {"q.weight": 2, "k.weight": 1}
    assert gradient_sums([GRAPH]) == {}
    # A norm that zero cuts: scattered to the ranks that share it, summed over the others that hold it.
    cut = line.replace("AllReduce", "ReduceScatter").replace(
        "grad_mirror_Op", "grad_parallel_optimizer_allgather_not_recompute"
    )
    assert gradient_sums([line + cut]) == {"q.weight": 1}
    assert gradient_sums([line + cut + cut]) == {"q.weight": 2}
    assert gradient_sums([line.replace("grad_mirror_Op", "forward_op_1"), cut.replace("grad_", "")]) == {}


def test_a_refusal_names_operator_strategy_and_line():
    told = front_end_reason(LOG, RAISED)
    assert told == (
        "MatMul: shape value 64 cannot be divisible by strategy value 3; "
        "Failure:operator MatMul init failed (at /home/me/net.py:12)"
    )
    assert front_end_reason("", "TypeError: no\nmore") == "TypeError: no"
    assert front_end_reason("", "") == "no reason given"


class Refused(nn.Cell):
    """Graphs that MindSpore's front end refuses, one a number."""

    def __init__(self, number):
        super().__init__(auto_prefix=False)
        self.number, self.two = number, (1, 2)

    def construct(self, x):
        if self.number == 0:
            import nothing  # noqa: F401
        elif self.number == 1:
            x = x.reshape((3, 1))
        elif self.number == 2:
            x = x.nothing()
        elif self.number == 3:
            x = x + self.two[5]
        elif self.number == 4:
            x = x + unknown  # noqa: F821
        elif self.number == 5:
            assert x.shape[0] == 99, "no"
        elif self.number == 6:
            raise KeyError("no")
        return x


@pytest.mark.filterwarnings("ignore")
def test_every_error_of_the_front_end_is_one_that_it_raises(graph_mode):
    x, raised = Tensor(np.ones((2, 2)), ms.float32), set()
    for number in range(7):
        with pytest.raises(FRONT_END_ERRORS) as caught:
            Refused(number).compile(x)
        raised.add(caught.type)
    with pytest.raises(FRONT_END_ERRORS) as caught:
        Refused(7).compile()
    raised.add(caught.type)
    assert not [kind for kind in FRONT_END_ERRORS if not any(issubclass(one, kind) for one in raised)], raised
