"""MindPet's cells told to compute in another type: `to_float` and `amp.auto_mixed_precision`, as Wukong and VisualGLM are written.

The types of what comes out are those that MindPet 1.0.4 was seen to give on MindSpore 2.10: after `to_float` a graph casts what its cell is
given, and the cell casts back to that; PyNative casts each operator's inputs instead. The CPU has no product in bfloat16: test_split_cells
compiles that for Ascend.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, amp, nn

from petrun.delta import AdapterDense, LoRADense, LowRankAdapterDense, PrefixEncoder, PrefixLayer, RDropLoss
from petrun.kernels import Gelu, LayerNorm, RmsNorm, SiluMul, step_counter
from petrun.mindpet.delta.prompt_tuning import PromptTuning
from tests.mindpet.numbers import numbers

WAYS = {
    "to_float16": lambda net: net.to_float(ms.float16),
    "to_float32": lambda net: net.to_float(ms.float32),
    "O2": lambda net: amp.auto_mixed_precision(net, "O2"),
    "O3": lambda net: amp.auto_mixed_precision(net, "O3"),
}
SETTINGS = {"weight_init": "normal", "activation": "gelu"}
CELLS = {
    "lora": lambda **kw: LoRADense(8, 6, 2, 4, 0.5, lora_b_init="normal", **SETTINGS, **kw),
    "adapter": lambda **kw: AdapterDense(8, 6, bottleneck_size=3, **SETTINGS, **kw),
    "low_rank": lambda **kw: LowRankAdapterDense(8, 6, reduction_factor=2, low_rank_size=2, **SETTINGS, **kw),
    "prefix": lambda: PrefixLayer(4, 2, 2, 8, 5, 7, dropout_rate=0.5),
    "encoder": lambda: PrefixEncoder(4, 2, 2, 4, True, 5, 0.5),
    "r_drop": RDropLoss,
    "prompt": lambda: PromptTuning(4, 8),
}
INPUTS = {
    "prefix": (2,),
    "encoder": (2,),
    "r_drop": (Tensor(numbers((4, 6), 1)), Tensor([0, 0, 1, 1], ms.int32)),
    "prompt": (Tensor([[0, 3]], ms.int32),),
}


class First(nn.Cell):
    """What a cell returns; of several tensors the first."""

    def __init__(self, cell, inputs):
        super().__init__()
        self.cell = cell
        self.inputs = inputs

    def construct(self):
        out = self.cell(*self.inputs)
        return out[0] if isinstance(out, tuple) else out


class Scaled(nn.Cell):
    """The sum of the squares of what a net returns, in float32."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def construct(self):
        out = self.net()
        return (out * out).astype(ms.float32).sum()


@pytest.fixture(autouse=True)
def step():
    """Masks follow from the step."""
    step_counter().set_data(Tensor(3, ms.int32))
    yield
    step_counter().set_data(Tensor(0, ms.int32))


def expected_dtype(kind, way, mode):
    if way != "to_float16":
        return ms.float32
    own_dtype = kind in ("lora", "adapter", "low_rank") and mode == ms.PYNATIVE_MODE
    return ms.float32 if own_dtype else ms.float16


def check(kind, way, mode, **types):
    cell = CELLS[kind](**types)
    for i, p in enumerate(cell.trainable_params()):
        p.set_data(Tensor(numbers(p.shape, i, 0.5), p.dtype))
    inputs = INPUTS.get(kind, (Tensor(numbers((4, 8), 9)),))
    expected = First(cell, inputs).set_train()().asnumpy()
    net = WAYS[way](First(cell, inputs)).set_train()
    # A cell that was called keeps its graph, with the types it had then.
    for _, part in net.cells_and_names():
        part.compile_cache.clear()
    out = net()
    assert out.dtype == expected_dtype(kind, way, mode)
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=2e-2, atol=2e-2)
    weights = net.trainable_params()
    if weights:
        _, gradients = ms.value_and_grad(Scaled(net), None, weights)()
        assert {g.dtype for g in gradients} == {p.dtype for p in weights}
        assert all(np.isfinite(g.asnumpy()).all() for g in gradients)
        assert sum(np.abs(g.asnumpy()).max() > 0 for g in gradients) >= len(weights) // 2


QUICK = [
    ("lora", "to_float16"),
    ("lora", "O2"),
    ("low_rank", "to_float16"),
    ("encoder", "to_float16"),
    ("r_drop", "to_float16"),
]


@pytest.mark.parametrize(("kind", "way"), QUICK)
def test_every_cell_computes_in_the_type_it_is_told(mode, kind, way):
    check(kind, way, mode)


@pytest.mark.all_only
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CELLS)
def test_every_cell_in_every_way(mode, kind, way):
    check(kind, way, mode)
    if kind in ("lora", "adapter", "low_rank"):
        check(kind, way, mode, compute_dtype=ms.float16)
        check(kind, way, mode, param_init_type=ms.float16, compute_dtype=ms.float16)


class Normed(nn.Cell):
    """petrun's kernels that have a C++ operator, one after the other."""

    def __init__(self):
        super().__init__()
        self.norms = nn.SequentialCell(LayerNorm(8, 1e-5), RmsNorm(8, 1e-5), Gelu())
        self.silu = SiluMul()

    def construct(self, x):
        x = self.norms(x)
        return self.silu(x, x)


def test_kernels_compute_in_half_precision_too(mode):
    """PyNative gave the C++ operators, which read float32, the float16 that MindSpore casts every operator's inputs to."""
    x = Tensor(numbers((4, 8), 2))
    expected = Normed()(x).asnumpy()
    out = Normed().to_float(ms.float16)(x)
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=1e-2, atol=1e-2)
