"""Choose a layout for `--parallel auto`: by the memory of a card and a rule that is printed with its arithmetic.

    the model and its data fit on a card        data parallel
    one copy in the compute dtype fits          weights and state are split over the data-parallel ranks (zero=1)
    all but the activations fits                activations are computed again (recompute select, then full)
    the model does not fit                      tensor parallel, on 2, 4 or 8 cards of one host; each again with all of these, and with
                                                tokens split between the layers (sequence)
    nor does that                               weights are gathered for one layer at a time (zero=3), from data parallel on
    it does not fit on a host                   pipeline stages as well, as few as possible

Bytes on a card: frozen weights in the compute dtype, trained ones in float32 and again in the compute dtype, 4 a value for gradients (8
with accumulation), 8 for AdamW's two moments, and an estimate of activations. With zero all of these are split but the copy that computes:
1 keeps it from the forward pass to the backward pass, 3 gathers it twice. 2 is left out: MindSpore 2.10 makes the same graph of it as of 1.
Activations were fitted to MindSpore's own plan of a Llama of 7B with LoRA (9 hidden widths and 6 feed-forward widths a token and layer) and
of GPT-2 (14 bytes a logit); the error is about a fifth. Compared with plans of two layers of a Llama of 13 B, full, dp=8, 2048 tokens:
zero=0 18.0 GiB (planned 17.9), zero=1 5.4 (5.1), zero=3 4.2 (3.9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.parallel.validate import Sizes, divisors, fits, layouts
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS

HOST_CARDS = 8
USABLE = 0.9
"""The share of a card's memory that a step may use: MindSpore's, HCCL's and the kernels' own buffers need the rest."""
DEFAULT_CARD_GIB = 32.0
Recompute = Literal["none", "select", "full"]
_RECOMPUTE: tuple[Recompute, ...] = ("none", "select", "full")
_GIB = 2**30
_LOGIT_BYTES = 14


@dataclass(frozen=True, kw_only=True)
class Model:
    """The sizes of a model that take memory. Counts of values are of any type."""

    layer_values: int
    """The count for all layers together."""
    other_values: int
    """Embeddings, head and the rest."""
    trained_layer: int
    trained_other: int
    hidden: int
    wide: int
    heads: int
    layers: int
    outputs: int
    """Vocabulary of a decoder's head; 0 for a classifier, whose logits are few."""
    item_bytes: int
    """Bytes of a value of the compute dtype. Attention without a matrix of scores needs 2."""
    sizes: Sizes | None
    """None: the model cannot be sharded."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows and tokens that a data-parallel rank computes at once."""

    rows: int
    tokens: int
    accumulate: bool = False
    recompute: Recompute = "none"
    offload: bool = False
    free: bool = False
    """The user did not set recompute: more than `recompute` may be computed again."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """The memory of the fullest card, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = (
            f"{name} {getattr(self, name) / _GIB:.2f}" for name in ("weights", "gradients", "optimizer", "activations")
        )
        return f"{' + '.join(parts)} = {self.total / _GIB:.2f} GiB"


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


def needs(model: Model, batch: Batch, layout: Layout) -> MemoryNeeds:
    """Return the bytes on the fullest card of a layout."""
    share = layout.tp * layout.pp
    values = model.layer_values / share + model.other_values / layout.tp
    trained = model.trained_layer / share + model.trained_other / layout.tp
    ranks = layout.dp if layout.zero else 1
    held = (values - trained) * model.item_bytes + trained * 4
    return MemoryNeeds(
        weights=held / ranks + model.item_bytes * _copied(model, layout, values, trained),
        gradients=trained * (8 if batch.accumulate else 4) / ranks,
        optimizer=0.0 if batch.offload else OPTIMIZERS[DEFAULT_OPTIMIZER].state_bytes * trained / ranks,
        activations=_activations(model, batch, layout),
    )


def _copied(model: Model, layout: Layout, values: float, trained: float) -> float:
    """Return the number of values with a second copy in the compute dtype: trained ones, with zero all that were gathered."""
    if layout.zero == 3:
        return max(model.layer_values / model.layers, model.other_values) / layout.tp
    if layout.zero:
        return values
    return trained if model.item_bytes < 4 else 0.0


def _activations(model: Model, batch: Batch, layout: Layout) -> float:
    # A stage keeps as many micro-batches as there are stages until their backward passes.
    tokens = batch.rows * max(1, batch.tokens) * min(1.0, layout.pp / layout.micro_batches)
    whole = 4 * model.hidden / (layout.tp if layout.sequence else 1)
    sharded = (5 * model.hidden + 6 * model.wide) / layout.tp
    if model.item_bytes > 2:
        sharded += 2 * model.heads * batch.tokens / layout.tp
    layers = model.layers / layout.pp
    kept = {
        "none": layers * (whole + sharded),
        "select": layers * (whole + sharded / 2),
        "full": layers * model.hidden + whole + sharded,
    }
    logits = batch.rows / layout.micro_batches * max(1, batch.tokens) * model.outputs * _LOGIT_BYTES / layout.tp
    return tokens * kept[batch.recompute] * model.item_bytes + logits


def choose(
    world: int, model: Model, batch: Batch, card_gib: float | None, refused: Callable[[Layout], str] = lambda layout: ""
) -> Choice:
    """Return the first layout by the rule above that fits. `refused`: why a run of a layout would be refused, or nothing.

    Raises ConfigError with the arithmetic where none fits.
    """
    gib = DEFAULT_CARD_GIB if card_gib is None else card_gib
    reason = (
        "the smaller of the Ascend 910B's two sizes; --card-memory 64 is the other"
        if card_gib is None
        else "--card-memory"
    )
    available = gib * USABLE * _GIB
    why = [f"card memory {gib:g} GiB ({reason}), {USABLE:.0%} of it planned for: {available / _GIB:.1f} GiB"]
    least: tuple[float, Candidate] | None = None
    hopeless: set[Layout] = set()
    for tried in candidates(world, model, batch):
        layout = tried.layout
        found = needs(model, replace(batch, recompute=tried.recompute), layout)
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


def candidates(world: int, model: Model, batch: Batch) -> Iterator[Candidate]:
    """Return the candidates in the order of the rule."""
    divide = {(layout.tp, layout.pp): layout for layout in layouts(world, model.sizes, batch.rows, batch.tokens)}
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
                if split is not None and fits(split, model.sizes, batch.rows, batch.tokens):
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
