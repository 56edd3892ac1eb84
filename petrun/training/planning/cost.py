"""Compute what a training run costs: floating-point operations of forward, backward and optimizer, and hours of cards.

For each token, N values of matrices that it is multiplied with (the head among them, embeddings not), A values of a delta's own matrices,
W values of those that train, L layers of attention of width D, rows of T tokens:

    forward    2 (N + A) + 4 L D T
    backward   2 (N + A) + 2 W + 8 L D T        gradients of activations through every layer; of the matrices that train
    recompute  the forward once more (full), of attention alone (select)
    optimizer  14 for each trained value and step (AdamW: two moments, their correction, root, division, decay)

so 6 N for full training and about 4 N for LoRA, as long as rows are short. Hours = operations / (cards * peak * utilisation), where the
utilisation is the share of the peak over all operations done, those of recomputing included. Communication, loading and evaluations are
not counted: a utilisation that was measured has them in it.

Source: Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B (6 N + 12 L D T for training; attention is not halved for causal masks).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from petrun.errors import ConfigError, did_you_mean

ADAMW_OPERATIONS = 14
"""For a trained value: m (3), v (4), their corrections (2), root and sum (2), quotient and rate (2), decay (1)."""
ASSUMED_UTILISATION = 0.3
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Card:
    """A kind of card, with its peak in half precision, dense."""

    name: str
    peak: float
    """Operations per second."""
    source: str


CARDS = {
    card.name: card
    for card in (
        Card(
            name="910", peak=256e12, source="Huawei, Hot Chips 31 (2019); CANN's platform_config: 32 cores at 1.0 GHz"
        ),
        Card(name="910b", peak=280e12, source="Gitee AI's specification of the 910B with 64 GB; parts differ: --peak"),
        Card(name="910b2", peak=353.9e12, source="CANN's platform_config: 24 cores * 16 * 16 * 16 * 2 * 1.8 GHz"),
        Card(name="a100", peak=312e12, source="NVIDIA's A100 data sheet, bfloat16 without sparsity"),
    )
}
_CARDS_TEXT = re.compile(r"(\d+)\s*[x*×]\s*([\w-]+)")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Cards of one kind, and what they are assumed to do."""

    cards: int
    card: Card
    utilisation: float
    is_measured: bool
    price: float | None
    """Of one card for one hour, in the user's currency."""


@dataclass(frozen=True, kw_only=True)
class NetSize:
    """The sizes of a net that operations follow from, counted in values."""

    parameters: int
    matrices: int
    added: int = 0
    """Of the delta's own matrices."""
    trained_matrices: int
    trained: int
    layers: int = 0
    width: int = 0
    """Heads times head width, of one layer of attention."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Floating-point operations of a run."""

    forward: float
    backward: float
    recompute: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recompute + self.optimizer


def operations(size: NetSize, *, tokens: float, row_tokens: float, steps: float, recompute: str = "none") -> Operations:
    """Count the operations of a run over so many tokens, those of padding included. `row_tokens`: T; `recompute`: none, select or full."""
    attention = 4 * size.layers * size.width * row_tokens
    passing = 2 * (size.matrices + size.added)
    forward = tokens * (passing + attention)
    return Operations(
        forward=forward,
        backward=tokens * (passing + 2 * size.trained_matrices + 2 * attention),
        recompute={"none": 0.0, "select": tokens * attention, "full": forward}[recompute],
        optimizer=float(ADAMW_OPERATIONS) * size.trained * steps,
    )


def card_hours(work: Operations, cluster: Cluster, busy: float = 1.0) -> float:
    """Return the hours of all cards together. `busy`: the share of the time in which a pipeline's stages have work."""
    return work.total / (cluster.card.peak * cluster.utilisation * busy) / _SECONDS_PER_HOUR


def implied_utilisation(work: Operations, cards: int, card: Card, hours: float) -> float:
    """Return the share of the peak that a run of so many hours had."""
    return work.total / (cards * card.peak * hours * _SECONDS_PER_HOUR)


def pipeline_busy(stages: int, micro_batches: int) -> float:
    """Return the share of a step in which a stage has work: m / (m + p - 1). Source: Huang et al., GPipe, arXiv 1811.06965, section 2.3."""
    return micro_batches / (micro_batches + stages - 1)


def parse_cluster(text: str, peak: float | None, utilisation: float | None, price: float | None) -> Cluster:
    """Parse `8x910b`. `peak`: of a card, in TFLOPS, instead of the table's. Raises ConfigError."""
    match = _CARDS_TEXT.fullmatch(text.strip().lower())
    if match is None or int(match[1]) < 1:
        raise ConfigError(f"--on {text}: is not a number of cards and their kind", hint="Example: --on 8x910b")
    known = CARDS.get(match[2])
    if known is None and peak is None:
        raise ConfigError(
            f"--on {text}: the peak of {match[2]!r} is not known. {did_you_mean(match[2], CARDS)}".rstrip(),
            hint=f"Known: {', '.join(CARDS)}. For any other give its peak in half precision: --peak 313 (TFLOPS).",
        )
    for flag, value in (("--peak", peak), ("--utilisation", utilisation), ("--price", price)):
        if value is not None and not value > 0:
            raise ConfigError(f"{flag} {value}: must be above 0")
    if utilisation is not None and utilisation > 1:
        raise ConfigError(f"--utilisation {utilisation}: is a share of the peak, at most 1", hint="Example: 0.35")
    card = known if peak is None else Card(name=match[2], peak=peak * 1e12, source="--peak")
    assert card is not None
    return Cluster(
        cards=int(match[1]),
        card=card,
        utilisation=ASSUMED_UTILISATION if utilisation is None else utilisation,
        is_measured=False,
        price=price,
    )
