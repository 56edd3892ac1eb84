"""Gradient clipping by the global norm.

    norm = sqrt(sum over all gradients of g^2);  g <- g * min(1, clip / (norm + 1e-6))

Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", arXiv 1211.5063, algorithm 1, for the norm
over all parameters and with the 1e-6 of torch.nn.utils.clip_grad_norm_.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from petrun.graph.each import each
from petrun.graph.state import number, set_number


def times(grads: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    """Multiply every gradient by a number."""
    return each(ops.partial(_product, factor), grads)


def _product(factor: Tensor, grad: Tensor) -> Tensor:
    return grad * factor


class GradientClipping(nn.Cell):
    """Clip gradients to a largest global norm.

    Inputs: gradients, a tuple of float32; their global norm () float32. Returns: the clipped gradients; for `clip` 0 the gradients
    themselves.
    """

    def __init__(self, clip: float) -> None:
        super().__init__(auto_prefix=False)
        self.clips = clip > 0.0
        self.clip = number("optim.clip", clip)
        self.mark = ops.ExpandDims().add_prim_attr("grad_scale", True)

    def set_clip(self, clip: float) -> None:
        """Give the compiled cell another largest norm. Raises ValueError where one of both is 0, which is another graph."""
        if (clip > 0.0) is not self.clips:
            raise ValueError("a step that clips and one that does not are two graphs")
        set_number(self.clip, clip)

    def global_norm(self, grads: Tensor) -> Tensor:
        """sqrt of the sum of all squares, () float32.

        Over ranks that hold shards, MindSpore sums values with the mark `grad_scale` before the root is taken, each shard once.
        """
        return ops.reshape(ops.sqrt(ops.addn(each(self.squared, grads))), ())

    def squared(self, grad: Tensor) -> Tensor:
        """The sum of a gradient's squares, (1,)."""
        return self.mark(ops.square(grad).sum(), 0)

    def factor(self, norm: Tensor) -> Tensor:
        """What the gradients of this norm are multiplied by, () float32."""
        if self.clips:
            return ops.minimum(self.clip / (norm + 1e-6), Tensor(1.0, ms.float32))
        return Tensor(1.0, ms.float32)

    def construct(self, grads: Tensor, norm: Tensor) -> Tensor:
        return times(grads, self.factor(norm)) if self.clips else grads
