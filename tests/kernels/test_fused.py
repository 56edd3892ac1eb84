"""The C++ operators inside MindSpore: views, shapes, repeated runs, gradients that nobody asked for."""

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun import kernels
from tests.kernels.conftest import close, normal, run


def test_views_are_read_by_value(mode, fused):
    """PyNative may hand over a transposed or sliced view: an operator must see its values, not its buffer."""

    class Views(nn.Cell):
        def __init__(self):
            super().__init__()
            self.gelu = kernels.Gelu()
            self.norm = kernels.LayerNorm(6, 1e-5)
            self.core = kernels.Attention(0.5)

        def construct(self, x, mask):
            turned = ops.transpose(x, (0, 2, 1, 3))
            part = x[:, 1:, ::2]
            core = self.core(turned, turned[:, :, ::-1], ops.swapaxes(x, 1, 2), mask)
            return self.gelu(turned), self.gelu(part), self.norm(turned), core

    x = Tensor(normal(2, 4, 5, 6))
    mask = Tensor(np.tri(4, dtype=bool)[None, None] & np.ones((2, 1, 1, 1), bool))
    found = [a.asnumpy() for a in Views()(x, mask)]
    with kernels.primitives_only():
        expected = [a.asnumpy() for a in Views()(x, mask)]
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def test_one_cell_many_shapes(mode, fused):
    cell = kernels.Gelu()
    for shape in [(4,), (2, 3), (5, 7, 9), (4,), (1, 100, 33), (2, 3)]:
        x = normal(*shape)
        with kernels.primitives_only():
            expected = kernels.Gelu()(Tensor(x)).asnumpy()
        close(cell(Tensor(x)).asnumpy(), expected)


class Block(nn.Cell):
    """Every kernel once, in an order that a model might have."""

    def __init__(self):
        super().__init__()
        self.q_split, self.merge = kernels.SplitHeads(8), kernels.MergeHeads(8)
        self.rope = kernels.Rope()
        self.core = kernels.Attention(0.35, 0.1, 1, "core")
        self.norm_1, self.norm_2, self.rms = (
            kernels.LayerNorm(16, 1e-5),
            kernels.LayerNorm(16, 1e-5),
            kernels.RmsNorm(16, 1e-5),
        )
        self.gelu, self.gelu_tanh, self.silu, self.tanh = (
            kernels.Gelu(),
            kernels.GeluTanh(),
            kernels.SiluMul(),
            kernels.Tanh(),
        )
        self.dropout = kernels.Dropout(0.2, 1, "drop")
        self.head = nn.Dense(16, 11)
        self.loss = kernels.TokenCrossEntropy()

    def construct(self, x, mask, cos, sin, targets):
        q = self.rope(self.q_split(self.norm_1(x)), cos, sin)
        y = self.merge(self.core(q, q, self.q_split(x), mask))
        x = self.norm_2(self.dropout(y), x)
        x = self.rms(x + self.gelu(x)) + self.gelu_tanh(x)
        x = self.silu(x, self.tanh(x))
        logits = self.head(x)
        return ops.sum(self.loss(ops.reshape(logits, (-1, 11)), ops.reshape(targets, (-1,))))


def block_inputs(t=9):
    rng = np.random.default_rng(1)
    angle = rng.uniform(-3, 3, (2, 1, t, 4)).astype(np.float32)
    angle = np.concatenate((angle, angle), -1)
    targets = rng.integers(0, 11, (2, t)).astype(np.int32)
    targets[0, 3] = -100
    mask = np.broadcast_to(np.tri(t, dtype=bool), (2, 1, t, t))
    return [Tensor(np.ascontiguousarray(a)) for a in (normal(2, t, 16), mask, np.cos(angle), np.sin(angle), targets)]


def gradients(net, inputs, parameters):
    net.set_train()
    value, grads = ms.value_and_grad(net, 0, parameters)(*inputs)
    return [value.asnumpy(), grads[0].asnumpy(), *(g.asnumpy() for g in grads[1])]


def test_a_whole_block(mode, fused):
    """Fused against primitives, and the same bits every time."""
    kernels.step_counter().set_data(Tensor(2, ms.int32))
    net = Block()
    start = {p.name: p.asnumpy() for p in net.get_parameters()}
    first = gradients(net, block_inputs(), tuple(net.trainable_params()))
    for _ in range(3):
        for a, b in zip(gradients(net, block_inputs(), tuple(net.trainable_params())), first, strict=True):
            np.testing.assert_array_equal(a, b)
    with kernels.primitives_only():
        other = Block()
    for p in other.get_parameters():
        p.set_data(Tensor(start[p.name]))
    for a, b in zip(first, gradients(other, block_inputs(), tuple(other.trainable_params())), strict=True):
        close(a, b, 2e-5)
    kernels.step_counter().set_data(Tensor(0, ms.int32))


def operators_of(net, inputs, parameters, folder):
    """Names of the C++ operators in the compiled graph of value_and_grad."""

    class Step(nn.Cell):
        def __init__(self):
            super().__init__()
            self.gradient = ms.value_and_grad(net, None, parameters)

        def construct(self, *inputs):
            return self.gradient(*inputs)

    ms.set_context(mode=ms.GRAPH_MODE, save_graphs=2, save_graphs_path=str(folder))
    try:
        Step().set_train()(*inputs)
    finally:
        ms.set_context(save_graphs=0)
    final = sorted(folder.rglob("*_validate_*.ir"), key=lambda p: p.stat().st_mtime)
    assert final, "MindSpore wrote no graph"
    return re.findall(r'func_name: "[^"]*:petrun_(\w+)"', final[-1].read_text(encoding="utf-8", errors="replace"))


def test_gradients_that_nobody_asked_for_are_not_computed(fused, tmp_path):
    net = Block()
    every = operators_of(net, block_inputs(), tuple(net.trainable_params()), tmp_path / "every")
    head = [p for p in net.trainable_params() if "norm_1" in p.name and "weight" in p.name]
    some = operators_of(net, block_inputs(), tuple(head), tmp_path / "some")
    assert every.count("layer_norm_weight_grad") == 2 and every.count("row_sum") == 2
    assert every.count("rms_norm_weight_grad") == 1
    assert some.count("layer_norm_weight_grad") == 1
    assert "row_sum" not in some and "rms_norm_weight_grad" not in some
    # x needs no gradient: the norm at the bottom has only its weight's.
    assert some.count("layer_norm_grad") == every.count("layer_norm_grad") == 1


@pytest.mark.parametrize("train", [False, True])
def test_training_is_a_matter_of_set_train(train, mode, fused):
    cell = kernels.Dropout(0.5, 0, "a")
    y, _, _ = run(cell, (np.ones((4, 100), np.float32),), np.ones((4, 100), np.float32), (0,), train=train)
    assert (y == 0).any() == train
