"""Compile a net of every kernel, forward and backward, for an Ascend card that is not there. Run by test_ascend."""

import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun import kernels

B, T, N, D, H = 2, 16, 4, 16, 64


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.split, self.merge = kernels.SplitHeads(D), kernels.MergeHeads(D)
        self.rope, self.core = kernels.Rope(), kernels.Attention(0.25, 0.1, 1, "core")
        self.layer_norm, self.rms_norm = kernels.LayerNorm(H, 1e-5), kernels.RmsNorm(H, 1e-6)
        self.gelu, self.gelu_tanh, self.tanh = kernels.Gelu(), kernels.GeluTanh(), kernels.Tanh()
        self.silu_mul, self.dropout = kernels.SiluMul(), kernels.Dropout(0.1, 1, "drop")
        self.loss = kernels.TokenCrossEntropy()

    def construct(self, x, mask, cos, sin, targets):
        q = self.rope(self.split(x), cos, sin)
        x = self.layer_norm(self.dropout(self.merge(self.core(q, q, q, mask))), x)
        x = self.rms_norm(x + self.gelu(x) + self.gelu_tanh(x))
        x = self.silu_mul(x, self.tanh(x))
        return ops.sum(self.loss(ops.reshape(x, (-1, H)), targets))


class Step(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.gradient = ms.value_and_grad(net, 0, tuple(net.trainable_params()))

    def construct(self, *inputs):
        return self.gradient(*inputs)


def main(folder):
    ms.set_context(mode=ms.GRAPH_MODE, save_graphs=2, save_graphs_path=folder)
    ms.set_device("Ascend")
    assert not kernels.status().fused and "Ascend" in kernels.status().reason
    half = ms.float16
    x, table = Tensor(np.ones((B, T, H)), half), Tensor(np.ones((B, 1, T, D)), half)
    mask = Tensor(np.broadcast_to(np.tri(T, dtype=bool), (B, 1, T, T)).copy())
    Step(Net()).set_train().compile(x, mask, table, table, Tensor(np.zeros(B * T), ms.int32))
    graph = next(Path(folder).rglob("*_validate_*.ir")).read_text(encoding="utf-8", errors="replace")
    print("OPERATORS", *sorted(set(re.findall(r"= (?:PrimFunc_)?([A-Z]\w+)\(", graph))))


if __name__ == "__main__":
    main(sys.argv[1])
