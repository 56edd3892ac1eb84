"""Each kernel's time: the C++ operator against MindSpore's primitives and, where it is installed, PyTorch.

    python scripts/bench/kernels.py [--rows 2048] [--hidden 384] [--repeat 30] [--only NAME]

The three take turns, and the least time of each is printed, in milliseconds: forward, and forward with the gradient of
every float input. Sizes default to one MiniLM layer at batch 32 x 64 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from petrun import kernels

try:
    import torch
except ImportError:
    torch = None


Inputs: TypeAlias = tuple[np.ndarray[Any, Any], ...]


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Cell]
    inputs: Inputs
    differentiable: tuple[int, ...]
    peer: Callable[..., Any] | None = None


def attention_cases(whole: Inputs, grouped: Inputs, scale: float) -> list[Case]:
    """Attention over q, k, v and a mask: `whole` sees everything, `grouped` has fewer heads of k and v and a causal mask."""
    f: Any = torch.nn.functional if torch else None

    def attend(q: Any, k: Any, v: Any, mask: Any, p: float = 0.0) -> Any:
        gqa = k.shape[1] != q.shape[1]
        return f.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, scale=scale, enable_gqa=gqa)

    return [
        Case("attention", lambda: kernels.Attention(scale), whole, (0, 1, 2), f and attend),
        Case(
            "attention causal, grouped",
            lambda: kernels.Attention(scale),
            grouped,
            (0, 1, 2),
            f and attend,
        ),
        Case(
            "attention dropout",
            lambda: kernels.Attention(scale, 0.1),
            whole,
            (0, 1, 2),
            f and (lambda q, k, v, mask: attend(q, k, v, mask, 0.1)),
        ),
    ]


def cases(rows: int, hidden: int) -> list[Case]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape, dtype=np.float32)

    batch, tokens, heads = max(1, rows // 64), 64, 12
    x, wide = normal(rows, hidden), normal(rows, 4 * hidden)
    q, k, v = (normal(batch, heads, tokens, hidden // heads) for _ in range(3))
    grouped = normal(batch, heads // 4, tokens, hidden // heads)
    everything = np.ones((batch, 1, tokens, tokens), bool)
    causal = np.tril(everything)
    tables = normal(1, 1, tokens, hidden // heads)
    targets = rng.integers(0, 8192, rows // 4).astype(np.int32)
    scale = (hidden // heads) ** -0.5
    f: Any = torch.nn.functional if torch else None

    return [
        Case("gelu", kernels.Gelu, (wide,), (0,), f and f.gelu),
        Case("gelu tanh", kernels.GeluTanh, (wide,), (0,), f and (lambda x: f.gelu(x, approximate="tanh"))),
        Case("silu * up", kernels.SiluMul, (wide, wide), (0, 1), f and (lambda g, u: f.silu(g) * u)),
        Case(
            "layer norm",
            lambda: kernels.LayerNorm(hidden, 1e-5),
            (x,),
            (0,),
            f and (lambda x: f.layer_norm(x, x.shape[-1:])),
        ),
        Case(
            "add + layer norm",
            lambda: kernels.LayerNorm(hidden, 1e-5),
            (x, x),
            (0, 1),
            f and (lambda x, r: f.layer_norm(x + r, x.shape[-1:])),
        ),
        Case(
            "rms norm", lambda: kernels.RmsNorm(hidden, 1e-5), (x,), (0,), f and (lambda x: f.rms_norm(x, x.shape[-1:]))
        ),
        *attention_cases((q, k, v, everything), (q, grouped, grouped, causal), scale),
        Case("rope", kernels.Rope, (q, tables, tables), (0,), f and rotate),
        Case("dropout", lambda: kernels.Dropout(0.1, 0, "bench"), (x,), (0,), f and (lambda x: f.dropout(x, 0.1))),
        Case(
            "cross entropy, 8192 classes",
            kernels.TokenCrossEntropy,
            (normal(rows // 4, 8192), targets),
            (0,),
            f and (lambda x, y: f.cross_entropy(x, y.long(), reduction="none")),
        ),
    ]


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Gradient(nn.Cell):
    """Forward and backward: the gradients of the sum of the output."""

    def __init__(self, net: nn.Cell, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.gradient = ms.value_and_grad(net, positions)

    def construct(self, *inputs: Any) -> Any:
        return self.gradient(*inputs)


def mindspore_calls(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    net = case.build().set_train()
    both = Gradient(net, case.differentiable).set_train()
    tensors = [Tensor(a) for a in case.inputs]

    def last(result: Any) -> None:
        while isinstance(result, tuple):
            result = result[-1]
        result.asnumpy()

    return (lambda: last(net(*tensors))), (lambda: last(both(*tensors)))


def torch_calls(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    peer = case.peer
    assert peer is not None
    tensors = [torch.tensor(a).requires_grad_(i in case.differentiable) for i, a in enumerate(case.inputs)]

    def forward() -> None:
        with torch.no_grad():
            peer(*tensors)

    def both() -> None:
        for t in tensors:
            t.grad = None
        peer(*tensors).sum().backward()

    return forward, both


def least(calls: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Milliseconds of each, taking turns."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeat + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    found = kernels.status()
    print(f"kernels: {found.reason}")
    print(f"torch: {torch.__version__ if torch else 'not installed'}")
    print(
        f"{'ms, least of ' + str(options.repeat):34s}{'fused':>9s}{'primitives':>12s}{'torch':>9s}{'prim/fused':>12s}{'torch/fused':>12s}"
    )
    for case in cases(options.rows, options.hidden):
        if options.only not in case.name:
            continue
        calls = {"fused": mindspore_calls(case)}
        with kernels.primitives_only():
            calls["primitives"] = mindspore_calls(case)
        if torch and case.peer:
            calls["torch"] = torch_calls(case)
        for i in range(2):
            times = least({name: pair[i] for name, pair in calls.items()}, options.repeat)
            peer = times.get("torch", float("nan"))
            ratios = f"{times['primitives'] / times['fused']:12.1f}{peer / times['fused']:12.1f}"
            label = case.name if i == 0 else "    + gradient"
            print(f"{label:34s}{times['fused']:9.2f}{times['primitives']:12.2f}{peer:9.2f}{ratios}", flush=True)


if __name__ == "__main__":
    main()
