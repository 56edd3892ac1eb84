"""AdamW: Adam with decoupled weight decay, inside the compiled step.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    w <- w - lr * wd * w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, algorithm 2, with the schedule multiplying
the decay as torch.optim.AdamW does. nn.AdamWeightDecay has no bias correction, so it is not used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from petrun.graph.each import each
from petrun.graph.state import number, set_number, zeros_beside
from petrun.kernels import fused, native
from petrun.kernels.optimizer import adamw
from petrun.train.clipping import times
from petrun.train.schedules import LearningRate, Schedule

_UNDECAYED_LEAVES = ("bias", "beta", "gamma")
_UNDECAYED_CELLS = ("norm", "layernorm", "ln_1", "ln_2", "ln_f")


def decays(name: str, ndim: int, decay_all: bool) -> bool:
    """Return whether a parameter is decayed: not one with a single axis, a bias, or a norm's."""
    if decay_all:
        return True
    path, _, leaf = name.rpartition(".")
    cell = path.rpartition(".")[2].lower()
    return ndim > 1 and leaf not in _UNDECAYED_LEAVES and not cell.endswith(_UNDECAYED_CELLS)


class AdamW(nn.Cell):
    """The update of all trained parameters. Owns `adam_m.*`, `adam_v.*` (float32, shapes of the parameters) and `adam_step`."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        schedule: Schedule,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decay_all: bool = False,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """`rates`: parameter name -> factor on the schedule's rate, where it is not 1."""
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(list(parameters))
        self.m = ParameterTuple([zeros_beside(p, "adam_m.") for p in self.parameters])
        self.v = ParameterTuple([zeros_beside(p, "adam_v.") for p in self.parameters])
        self.step = Parameter(Tensor(0, ms.int32), name="adam_step", requires_grad=False)
        self.decayed = tuple(float(decays(p.name, p.ndim, decay_all)) for p in self.parameters)
        self.factors = tuple((rates or {}).get(p.name, 1.0) for p in self.parameters)
        self.rate = LearningRate(schedule)
        self.beta1, self.beta2 = number("optim.beta1", 0.0), number("optim.beta2", 0.0)
        self.log_beta1, self.log_beta2 = number("optim.log_beta1", 0.0), number("optim.log_beta2", 0.0)
        self.eps, self.weight_decay = number("optim.eps", 0.0), number("optim.weight_decay", 0.0)
        self.set_numbers(beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
        # Of one number: zeros in a parameter's shape would stay in the graph as a constant of that size.
        self.zero = Tensor(0.0, ms.float32)
        self.one = Tensor(1.0, ms.float32)
        self.adam = ops.Adam()
        library = native.library()
        self.is_fused = library is not None and all(p.dtype == ms.float32 for p in self.parameters)
        self.fused = fused.if_built(adamw, library)
        # What the C++ operator takes of each parameter alone.
        self.own = tuple(Tensor(pair, ms.float32) for pair in zip(self.factors, self.decayed, strict=True))

    def set_numbers(self, *, beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
        """Give the compiled cell other numbers."""
        set_number(self.beta1, beta1)
        set_number(self.beta2, beta2)
        set_number(self.log_beta1, math.log(beta1) if beta1 > 0 else -math.inf)
        set_number(self.log_beta2, math.log(beta2) if beta2 > 0 else -math.inf)
        set_number(self.eps, eps)
        set_number(self.weight_decay, weight_decay)

    @property
    def on_host(self) -> tuple[Parameter, ...]:
        """Return the state that takes no memory of an accelerator."""
        return ()

    def learning_rate(self) -> Tensor:
        """Return the rate of the next step."""
        return self.rate(self.step)

    def construct(self, grads: Tensor, finite: Tensor, scale: Tensor = None) -> Tensor:
        """One update from gradients in the order of the parameters, all multiplied by `scale` () float32 if it is given; none, bit-exact,
        unless `finite` () bool. Returns the rate.

        Not by a branch: what stands in one MindSpore may compile into a graph of its own, whose memory no plan counts.
        """
        rate = self.rate(self.step)
        t = (self.step + 1).astype(ms.float32)
        power1 = ops.exp(t * self.log_beta1)
        power2 = ops.exp(t * self.log_beta2)
        if self.is_fused:
            taken, factor = finite.astype(ms.float32), self.one if scale is None else scale
            # A parameter and a tensor are two types to ops.stack.
            beta1, beta2, eps, decay = self.beta1 + 0, self.beta2 + 0, self.eps + 0, self.weight_decay + 0
            numbers = ops.stack((taken, factor, rate, beta1, beta2, power1, power2, eps, decay))
            each(ops.partial(self.write, numbers), self.parameters, self.m, self.v, grads, self.own)
        else:
            grads = grads if scale is None else times(grads, scale)
            each(
                ops.partial(self.update, self.shared(rate, finite, power1, power2)),
                self.parameters,
                self.m,
                self.v,
                grads,
                self.factors,
                self.decayed,
            )
        ops.assign(self.step, self.step + finite.astype(ms.int32))
        return rate

    def write(
        self, numbers: Tensor, weight: Parameter, m: Parameter, v: Parameter, grad: Tensor, own: Tensor
    ) -> Tensor:
        """Update one parameter by the C++ operator, which keeps nothing beside the parameter and its state."""
        return self.fused(weight, m, v, grad, numbers, own)

    def shared(self, rate: Tensor, finite: Tensor, power1: Tensor, power2: Tensor) -> tuple[Tensor, ...]:
        """What the updates of all parameters have in common."""
        # ops.Adam divides by sqrt(v) + eps and folds both corrections into the rate; scaling eps by
        # sqrt(1 - b2^t) makes that equal to the formula above.
        eps = self.eps * ops.sqrt(1.0 - power2)
        one = ops.ones_like(rate)
        taken = ops.select(finite, rate, ops.zeros_like(rate))
        beta1 = ops.select(finite, self.beta1, one)
        beta2 = ops.select(finite, self.beta2, one)
        return finite, taken, power1, power2, beta1, beta2, eps, self.weight_decay

    def update(
        self,
        shared: tuple[Tensor, ...],
        weight: Parameter,
        m: Parameter,
        v: Parameter,
        grad: Tensor,
        factor: float,
        decayed: float,
    ) -> Tensor:
        """Decay and move one parameter."""
        finite, taken, power1, power2, beta1, beta2, eps, decay = shared
        rate = taken * factor
        ops.assign(weight, weight * (1.0 - rate * (decay * decayed)))
        grad = ops.select(finite, grad, self.zero)
        return self.move(weight, m, v, power1, power2, rate, beta1, beta2, eps, grad)

    def move(self, weight: Parameter, m: Parameter, v: Parameter, *rest: Tensor) -> Tensor:
        """Take Adam's step for one parameter."""
        return self.adam(weight, m, v, *rest)


class HostAdamW(AdamW):
    """AdamW whose moments an accelerator leaves in the host's memory: gradients go there, its processor turns them into steps, and
    these come back to the weights. On a CPU the same numbers as AdamW.

    Source: Ren et al., "ZeRO-Offload", arXiv 2101.06840; but weights stay on the card in float32.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.is_fused = False
        self.adam = ops.AdamNoUpdateParam()
        self.adam.set_device("CPU")

    @property
    def on_host(self) -> tuple[Parameter, ...]:
        return (*self.m, *self.v)

    def move(self, weight: Parameter, m: Parameter, v: Parameter, *rest: Tensor) -> Tensor:
        return ops.assign_add(weight, self.adam(m, v, *rest))
