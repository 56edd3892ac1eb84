"""R-Drop: two dropout masks for every row, and a loss that makes the two predictions similar.

    loss = 1/2 (CE(p1) + CE(p2)) + kl_weight * 1/2 (KL(p1 || p2) + KL(p2 || p1))

Source: Wu et al., "R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448, eq. (2) for the divergence, eq. (3) for the
cross entropies, eq. (4) for their sum. There both cross entropies are added, here their mean is taken, as in the authors' code, so
that the loss is on the scale of a run without R-Drop: kl_weight is half of the alpha of eq. (4), and the alpha of that code.

Both passes are one pass over the batch with every row written twice, as section 2.2 does it. A mask depends on (seed, step, layer,
position), and the copies have other positions: the masks differ, and are the same in another run and in the other mode. The
copies are neighbours, so a rank's share of the batch is a contiguous part of the doubled one too.
"""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from mindspore import mint, nn, ops
from pydantic import Field

from petrun.delta.forms import NotStored
from petrun.delta.method import OF_THE_RUN, Method, MethodConfig, same_values
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.graph.unpacked import call_with
from petrun.kernels import Attention, Dropout, TokenCrossEntropy
from petrun.typing import Cell, Tensor

IGNORED = -100


class RDropConfig(MethodConfig):
    """Settings of R-Drop."""

    kl_weight: Annotated[float, OF_THE_RUN] = Field(
        1.0, gt=0.0, description="weight of the divergence between the two passes"
    )


def log_probabilities(logits: Tensor) -> Tensor:
    """Compute log softmax over the last axis, float32, from exp and log, as MindSpore's own hides a NaN on the CPU."""
    wide = ops.cast(logits, ms.float32)
    shifted = wide - ops.stop_gradient(ops.amax(wide, -1, True))
    return shifted - ops.log(ops.sum(ops.exp(shifted), -1, True))


def both_divergences(first: Tensor, second: Tensor) -> Tensor:
    """Compute KL(p1 || p2) + KL(p2 || p1) = sum over classes of (p1 - p2) (log p1 - log p2). (..., C) twice -> (...), float32."""
    log_1, log_2 = log_probabilities(first), log_probabilities(second)
    return ops.sum((ops.exp(log_1) - ops.exp(log_2)) * (log_1 - log_2), -1)


class RDropTraining(nn.Cell):
    """Adds R-Drop to another loss.

    Inputs: as the inner loss: denominator () float32; targets (B,) or (B, T) int32, -100 = ignored; the net's inputs, all with B rows.
    Returns (loss () float32, logits of the first pass). Reduction: sums over supervised items divided by the denominator, for the
    divergence as for the cross entropy, so that micro-batches add up to the mean of the whole batch.
    """

    def __init__(self, loss: Cell, kl_weight: float) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.kl_weight = kl_weight

    def construct(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        doubled = call_with(rdrop_repeat, (targets, *inputs))
        # Divided by twice the denominator, the inner loss of both copies is the mean of the two.
        value, logits = call_with(self.loss, (denominator * 2.0, *doubled))
        first = logits[0::2]
        apart = both_divergences(first, logits[1::2])
        known = ops.cast(ops.reshape(targets, apart.shape) != IGNORED, ms.float32)
        # A row that is not supervised may hold anything, infinity included.
        apart = ops.select(known > 0.0, apart, ops.zeros_like(apart))
        return value + (0.5 * self.kl_weight) * (apart.sum() / denominator), first


class RDropLoss(nn.Cell):
    """Cross entropy and divergence of rows in pairs (0, 1), (2, 3), ..., MindPet's signature.

        mean over the 2B rows of CE + alpha / 4 * mean over the B pairs of (KL(p1 || p2) + KL(p2 || p1))

    This is half of eq. (4), averaged over the batch. MindPet sums the divergence over the batch instead, so that it grows with the
    batch; and does not check alpha.

    Inputs: logits (2B, C) float16, bfloat16 or float32; label_ids (2B,) class numbers, -100 = ignored, or (2B, C) probabilities,
    or both (2B,): one row of 2B classes; alpha, a number. Returns () float32; after `to_float` of a half type, that type, as MindPet does.
    Raises: TypeError where alpha is not a number, ValueError for an odd number of rows.
    """

    # `to_float` sets these.
    fp16, bf16 = False, False

    def __init__(self) -> None:
        super().__init__()
        self.cross_entropy = TokenCrossEntropy()

    def construct(self, logits: Tensor, label_ids: Tensor, alpha: float = 4) -> Tensor:
        value = self.loss(logits, label_ids, alpha)
        if self.fp16:
            return ops.cast(value, ms.float16)
        return ops.cast(value, ms.bfloat16) if self.bf16 else value

    def loss(self, logits: Tensor, label_ids: Tensor, alpha: object) -> Tensor:
        """Compute the result of construct, in float32."""
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise TypeError("RDropLoss: alpha must be an int or a float")
        if logits.shape[0] % 2 != 0:
            raise ValueError("RDropLoss: the rows must lie in pairs; repeat the inputs with rdrop_repeat")
        pairs = both_divergences(logits[0::2], logits[1::2])
        if label_ids.shape == logits.shape:
            entropy = -ops.sum(ops.cast(label_ids, ms.float32) * log_probabilities(logits), -1)
            return ops.mean(entropy) + alpha / 4 * ops.mean(pairs)
        labels = ops.cast(ops.reshape(label_ids, (-1,)), ms.int32)
        known = ops.cast(labels != IGNORED, ms.float32)
        counted = ops.maximum(known.sum(), 1.0)
        divergence = ops.sum(ops.reshape(pairs, (-1,)) * known[0::2]) * 2.0 / counted
        return self.cross_entropy(logits, labels).sum() / counted + alpha / 4 * divergence


def rdrop_repeat(*items: Tensor) -> tuple[Tensor, ...]:
    """Repeat each row of every item, one after the other: (B, ...) -> (2B, ...)."""
    repeated: tuple[Tensor, ...] = ()
    for item in items:
        both = ops.stack((item, item), 1)
        repeated = (*repeated, ops.reshape(both, (2 * item.shape[0], *item.shape[1:])))
    return repeated


_DROPOUTS = (Dropout, Attention, mint.nn.Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def drops(cell: Cell) -> bool:
    """Return whether a cell draws a dropout mask while training."""
    if not isinstance(cell, _DROPOUTS):
        return False
    # MindSpore's dropout cells keep their rate under one of three names.
    rates = [getattr(cell, name, None) for name in ("p", "prob")]
    known = [rate for rate in rates if rate is not None]
    return bool(known[0] > 0.0 if known else cell.keep_prob < 1.0)


def attach(net: Cell, config: RDropConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Own nothing. Raises ConfigError where neither the net nor the joined method has dropout."""
    joined = any(value > 0.0 for key, value in config.model_dump().items() if key.endswith("dropout"))
    if not joined and not any(drops(cell) for _, cell in net.cells_and_names()):
        raise ConfigError(
            "r_drop needs dropout: nothing in this model drops anything while training, so its two passes would be the same",
            hint="Join it with a method that has dropout (--algo lora+r_drop --dropout 0.1), or use a base with dropout.",
        )
    return ()


def wrap_loss(loss: Cell, net: Cell, config: RDropConfig) -> RDropTraining:
    """Return the loss with R-Drop."""
    return RDropTraining(loss, config.kl_weight)


def why_no_sum(config: RDropConfig) -> str:
    """Return why it has no sums: it has no tensors."""
    return "which is a loss, and adds nothing to the base"


METHOD = Method(
    name="r_drop",
    config=RDropConfig,
    default_lr=1e-3,
    attach=attach,
    trains="nothing",
    merge=same_values,
    why_no_sum=why_no_sum,
    peft=NotStored("it is a loss, and has no tensors"),
    mindpet=NotStored("it is a loss, and has no tensors"),
    wrap_loss=wrap_loss,
    needs_classes=True,
    owning=False,
)
