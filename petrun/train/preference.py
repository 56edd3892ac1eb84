"""Losses on pairs of answers to one prompt, of which the first is preferred, and the table of them and of kto (petrun/train/unpaired.py).

B rows, T tokens. With p the sum of the log-probabilities of an answer's tokens, n their number, r the same sum by the
net that the run begins from, the base; w the chosen answer and l the rejected one:

    dpo    h = (p_w - r_w) - (p_l - r_l);  -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)
           Rafailov et al., arXiv 2305.18290, eq. (7); e, the share of rows whose answers are swapped, Mitchell, "A note on DPO with noisy
           preferences", 2023
    ipo    h as for dpo, of means p / n and r / n;  (h - 1 / (2 beta))^2
           Azar et al., arXiv 2310.12036, eq. (17)
    simpo  -log sigmoid(beta (p_w / n_w - p_l / n_l) - gamma)
           Meng et al., arXiv 2405.14734, eq. (6)
    orpo   -p_w / n_w - beta log sigmoid(logit(exp(p_w / n_w)) - logit(exp(p_l / n_l))),  logit(q) = log(q / (1 - q))
           Hong et al., arXiv 2403.07691, eq. (6) and (7)

To each of these, `sft_weight` times -p_w / n_w may be added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.unpacked import call_with
from petrun.kernels import TokenCrossEntropy
from petrun.typing import Cell, Tensor

_NEAREST_TO_1 = -1e-6
"""Largest log-probability whose odds are computed: those of a certain answer are infinite."""


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """Numbers of a loss on preferences; each loss reads those that its formula names."""

    beta: float
    gamma: float = 0.0
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))) without overflow, any shape."""
    return ops.minimum(x, ops.zeros_like(x)) - ops.log(1.0 + ops.exp(-ops.abs(x)))


class DirectPreference(nn.Cell):
    """Inputs: log_probs, counts and base, (B, 2) float32 each. Returns: (B,) float32. So do the cells below."""

    def __init__(self, settings: PreferenceSettings) -> None:
        super().__init__()
        self.beta, self.smoothing = settings.beta, settings.label_smoothing

    def construct(self, log_probs: Tensor, counts: Tensor, base: Tensor) -> Tensor:
        gains = log_probs - base
        h = self.beta * (gains[:, 0] - gains[:, 1])
        return -(1.0 - self.smoothing) * log_sigmoid(h) - self.smoothing * log_sigmoid(-h)


class IdentityPreference(nn.Cell):
    def __init__(self, settings: PreferenceSettings) -> None:
        super().__init__()
        self.margin = 0.5 / settings.beta

    def construct(self, log_probs: Tensor, counts: Tensor, base: Tensor) -> Tensor:
        gains = (log_probs - base) / counts
        return ops.square(gains[:, 0] - gains[:, 1] - self.margin)


class SimplePreference(nn.Cell):
    def __init__(self, settings: PreferenceSettings) -> None:
        super().__init__()
        self.beta, self.gamma = settings.beta, settings.gamma

    def construct(self, log_probs: Tensor, counts: Tensor, base: Tensor) -> Tensor:
        means = log_probs / counts
        return -log_sigmoid(self.beta * (means[:, 0] - means[:, 1]) - self.gamma)


class OddsRatioPreference(nn.Cell):
    def __init__(self, settings: PreferenceSettings) -> None:
        super().__init__()
        self.beta = settings.beta

    def construct(self, log_probs: Tensor, counts: Tensor, base: Tensor) -> Tensor:
        means = log_probs / counts
        below = ops.minimum(means, ops.full_like(means, _NEAREST_TO_1))
        logits = below - ops.log(1.0 - ops.exp(below))
        return -means[:, 0] - self.beta * log_sigmoid(logits[:, 0] - logits[:, 1])


@dataclass(frozen=True, kw_only=True)
class PreferenceKind:
    """One loss: its cell, the beta that it has by default, and what it reads."""

    cell: Callable[[PreferenceSettings], Cell] | None
    """None for a loss on rows with one answer, which has a cell of its own."""
    beta: float
    needs_base: bool = False
    """Whether it compares with the base's own log-probabilities."""
    reads: tuple[str, ...] = ()
    """Fields of PreferenceSettings that it reads beside beta."""

    @property
    def unpaired(self) -> bool:
        """Whether its rows have one answer, desirable or not."""
        return self.cell is None


PREFERENCE_LOSSES: Mapping[str, PreferenceKind] = {
    "dpo": PreferenceKind(cell=DirectPreference, beta=0.1, needs_base=True, reads=("label_smoothing", "sft_weight")),
    "ipo": PreferenceKind(cell=IdentityPreference, beta=0.1, needs_base=True, reads=("sft_weight",)),
    "simpo": PreferenceKind(cell=SimplePreference, beta=2.0, reads=("gamma", "sft_weight")),
    "orpo": PreferenceKind(cell=OddsRatioPreference, beta=0.1, reads=("sft_weight",)),
    "kto": PreferenceKind(cell=None, beta=0.1, needs_base=True, reads=("desirable_weight", "undesirable_weight")),
}


def answer_sums(losses: Tensor, targets: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log-probabilities, scored tokens) of the two sequences of each row, (B, 2) float32 each, sums over their tokens.

    Inputs: losses (B, T) float32, cross entropy of each token; targets (B, T) int32; segments (B, T) int32, 1 and 2.
    """
    scored = ops.cast(targets != -100, ms.float32)
    first, second = (
        scored * ops.cast(segments == 1, ms.float32),
        scored * ops.cast(segments == 2, ms.float32),
    )
    log_probs = -ops.stack((ops.sum(losses * first, 1), ops.sum(losses * second, 1)), 1)
    return log_probs, ops.stack((ops.sum(first, 1), ops.sum(second, 1)), 1)


class PreferenceLoss(nn.Cell):
    """A loss on rows of two sequences, the prompt with the chosen and with the rejected answer (petrun/data/encode/preference.py).

    Inputs: denominator () float32; targets (B, T) int32, shifted, -100 = ignored; where the loss needs it base (B, 2) float32; then the
    net's own inputs, among them segment_ids, 1 for the first sequence of a row and 2 for the second.
    Returns (sum of losses / denominator () float32, logits). A row without a target in one of its answers counts for nothing.
    """

    def __init__(self, net: Cell, kind: PreferenceKind, settings: PreferenceSettings, segments: int) -> None:
        """`segments`: the place of segment_ids among the net's inputs."""
        super().__init__(auto_prefix=False)
        assert kind.cell is not None, "rows with one answer have UnpairedLoss"
        self.net = net
        self.kind = kind.cell(settings)
        self.needs_base = kind.needs_base
        self.sft_weight = settings.sft_weight
        self.segments = segments
        self.cross_entropy = TokenCrossEntropy()

    def construct(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        own = inputs[1:] if self.needs_base else inputs
        logits = call_with(self.net, own)
        flat = ops.reshape(logits, (-1, logits.shape[-1]))
        losses = ops.reshape(self.cross_entropy(flat, ops.reshape(targets, (-1,))), targets.shape)
        log_probs, found = answer_sums(losses, targets, own[self.segments])
        counts = ops.maximum(found, ops.ones_like(found))
        base = inputs[0] if self.needs_base else ops.zeros_like(log_probs)
        values = self.kind(log_probs, counts, base)
        if self.sft_weight > 0.0:
            values = values - self.sft_weight * (log_probs[:, 0] / counts[:, 0])
        complete = ops.logical_and(found[:, 0] > 0.0, found[:, 1] > 0.0)
        values = ops.select(complete, values, ops.zeros_like(values))
        return ops.sum(values) / denominator, logits
