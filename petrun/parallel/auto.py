"""Choose a layout for `--parallel auto`: by the memory of a card and a rule that is printed with its arithmetic.

    the model and its data fit on a card        data parallel
    one copy in the compute dtype fits          weights and state are split over the data-parallel ranks (zero=1)
    all but the activations fits                activations are computed again (recompute select, then full)
    the model does not fit                      tensor parallel, on 2, 4 or 8 cards of one host; each again with all of these, and with
                                                tokens split between the layers (sequence)
    nor does that                               weights are gathered for one layer at a time (zero=3), from data parallel on
    it does not fit on a host                   pipeline stages as well, as few as possible

What a card holds is petrun.parallel.memory's plan of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.parallel.memory.plan import MemoryPlan
from petrun.parallel.validate import Sizes, divisors, fits, layouts

HOST_CARDS = 8
USABLE = 0.9
"""The share of a card's memory that a step may use: MindSpore's, HCCL's and the kernels' own buffers need the rest."""
DEFAULT_CARD_GIB = 32.0
Recompute = Literal["none", "select", "full"]
_RECOMPUTE: tuple[Recompute, ...] = ("none", "select", "full")
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows and tokens that a data-parallel rank computes at once."""

    rows: int
    tokens: int
    recompute: Recompute = "none"
    free: bool = False
    """The user did not set recompute: more than `recompute` may be computed again."""


@dataclass(frozen=True)
class Candidate:
    """A layout, and which activations are computed again."""

    layout: Layout
    recompute: Recompute = "none"

    def __str__(self) -> str:
        return f"{self.layout}" + (f", recompute={self.recompute}" if self.recompute != "none" else "")


@dataclass(frozen=True)
class Choice:
    """The chosen layout, and the lines that say why."""

    layout: Layout
    recompute: Recompute
    why: tuple[str, ...]


def choose(
    world: int,
    sizes: Sizes | None,
    batch: Batch,
    needed: Callable[[Candidate], MemoryPlan],
    card_gib: float | None,
    refused: Callable[[Layout], str] = lambda layout: "",
) -> Choice:
    """Return the first layout by the rule above that fits.

    `sizes`: those of the model that must divide, None where it cannot be sharded; `needed`: what the fullest card holds; `refused`: why a
    run of a layout would be refused, or nothing. Raises ConfigError with the plans where none fits.
    """
    gib = DEFAULT_CARD_GIB if card_gib is None else card_gib
    reason = (
        "the smaller of the Ascend 910B's two sizes; --card-memory 64 is the other"
        if card_gib is None
        else "--card-memory"
    )
    available = gib * USABLE * _GIB
    why = [f"card memory {gib:g} GiB ({reason}), {USABLE:.0%} of it planned for: {available / _GIB:.1f} GiB"]
    least: tuple[int, Candidate] | None = None
    hopeless: set[Layout] = set()
    for tried in candidates(world, sizes, batch):
        layout = tried.layout
        found = needed(tried)
        if least is None or found.total < least[0]:
            least = (found.total, tried)
        if layout in hopeless:
            continue
        if found.total > available:
            why.append(f"{tried}: {found}: too much")
            if found.total - found.activations > available:
                # Recomputing activations would not help.
                hopeless.add(layout)
        elif reason := refused(layout):
            why.append(f"{tried}: fits, and is refused: {reason}")
            hopeless.add(layout)
        else:
            return Choice(
                layout, tried.recompute, (*why, f"{tried}: {found}: fits", f"chosen: {tried}, as {_because(tried)}")
            )
    assert least is not None  # Plain data parallel is always a candidate.
    raise ConfigError(
        f"--parallel auto: no layout of {world} cards fits:\n  " + "\n  ".join(why),
        hint=f"The least is {least[0] / _GIB:.1f} GiB with {least[1]}. {_remedies(batch)}",
    )


def candidates(world: int, sizes: Sizes | None, batch: Batch) -> Iterator[Candidate]:
    """Return the candidates in the order of the rule."""
    divide = {(layout.tp, layout.pp): layout for layout in layouts(world, sizes, batch.rows, batch.tokens)}
    host = [divide[tp, 1] for tp in divisors(world) if tp in (1, 2, 4, HOST_CARDS) and (tp, 1) in divide]
    widest = host[-1].tp
    pipelines = [divide[widest, pp] for pp in divisors(world // widest) if pp > 1 and (widest, pp) in divide]
    hows = _RECOMPUTE[_RECOMPUTE.index(batch.recompute) :] if batch.free else (batch.recompute,)

    def ladder(layout: Layout, *zeros: int) -> Iterator[Candidate]:
        for how in hows:
            for zero in zeros:
                if zero == 0 or layout.dp > 1:
                    yield Candidate(replace(layout, zero=zero), how)
                split = replace(layout, sequence=True) if zero == 0 and layout.tp > 1 and layout.pp == 1 else None
                if split is not None and fits(split, sizes, batch.rows, batch.tokens):
                    yield Candidate(split, how)

    for layout in host:
        yield from ladder(layout, 0, 1)
    for layout in host:
        yield from ladder(layout, 3)
    for layout in pipelines:
        yield from ladder(layout, 0, 1)


def _because(tried: Candidate) -> str:
    layout = tried.layout
    if layout.pp > 1:
        return "the model does not fit on the cards of one host"
    if layout.zero == 3:
        return "the model does not fit on a host's cards unless its weights are gathered for one layer at a time"
    if layout.tp > 1:
        return "the model does not fit on one card, and does on fewer than a host's"
    if layout.zero:
        return "what is held fits where the data-parallel ranks split it"
    if tried.recompute != "none":
        return "all but the activations fits on each card"
    return "the model and its data fit on each card"


def _remedies(batch: Batch) -> str:
    remedies = ["more --cards"]
    remedies += [f"a smaller --batch-size than {batch.rows}"] if batch.rows > 1 else []
    remedies += ["--recompute full"] if batch.recompute != "full" and not batch.free else []
    return f"Give {', '.join(remedies)}, or train less of the model (--algo lora)."
