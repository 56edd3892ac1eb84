"""`--parallel auto`: how a model is laid out on cards of a given memory, by a rule that is printed with its arithmetic.

    the model and its data fit on a card        data parallel
    all but the optimizer's state fits          its state is split over the data-parallel ranks (zero=1)
    the model does not fit                      tensor parallel, on 2, 4 or 8 cards of one host; each again with zero=1
    it does not fit on a host                   pipeline stages as well, as few as will do

Bytes on a card: frozen weights in the compute dtype, trained ones in float32, 4 a value for gradients (8 with accumulation), 8 for
AdamW's two moments, and an estimate of activations. The last was fitted to MindSpore's own plan of a Llama of 7B with LoRA (9 hidden
widths and 6 feed-forward widths a token and layer) and of GPT-2 (14 bytes a logit); it is good to about a fifth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from petrun.errors import ConfigError
from petrun.parallel.divide import Sizes, divisors, layouts
from petrun.parallel.layout import Layout

HOST_CARDS = 8
USABLE = 0.9
"""Of a card's memory: MindSpore's, HCCL's and the kernels' own buffers need the rest."""
DEFAULT_CARD_GIB = 32.0
_GIB = 2**30
_LOGIT_BYTES = 14


@dataclass(frozen=True)
class Model:
    """What of a model takes memory. Values: numbers, whatever their type."""

    layer_values: int
    """Of all layers together."""
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
    """Of the compute dtype. Attention without a matrix of scores needs 2."""
    sizes: Sizes | None
    """None: it is not cut."""


@dataclass(frozen=True)
class Batch:
    """What a step computes at once on a data-parallel rank."""

    rows: int
    tokens: int
    accumulate: bool = False
    recompute: Literal["none", "select", "full"] = "none"
    offload: bool = False


@dataclass(frozen=True)
class Needs:
    """Bytes on the card that holds most."""

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
class Choice:
    """A layout, and the lines that say why."""

    layout: Layout
    why: tuple[str, ...]


def needs(model: Model, batch: Batch, layout: Layout) -> Needs:
    """Bytes on the fullest card of a layout."""
    share = layout.tp * layout.pp
    values = model.layer_values / share + model.other_values / layout.tp
    trained = model.trained_layer / share + model.trained_other / layout.tp
    split = layout.dp if layout.zero >= 1 else 1
    optimizer = 0.0 if batch.offload else 8 * trained / split
    gradients = trained * (8 if batch.accumulate else 4) / (layout.dp if layout.zero >= 2 else 1)
    own = trained / (layout.dp if layout.zero >= 3 else 1)
    return Needs(
        (values - trained) * model.item_bytes + own * 4, gradients, optimizer, _activations(model, batch, layout)
    )


def _activations(model: Model, batch: Batch, layout: Layout) -> float:
    # A stage keeps as many micro-batches as there are stages until their backward passes come.
    tokens = batch.rows * max(1, batch.tokens) * min(1.0, layout.pp / layout.micro_batches)
    whole = 4 * model.hidden / (layout.tp if layout.sequence else 1)
    cut = (5 * model.hidden + 6 * model.wide) / layout.tp
    if model.item_bytes > 2:
        cut += 2 * model.heads * batch.tokens / layout.tp
    layers = model.layers / layout.pp
    kept = {
        "none": layers * (whole + cut),
        "select": layers * (whole + cut / 2),
        "full": layers * model.hidden + whole + cut,
    }
    logits = batch.rows / layout.micro_batches * max(1, batch.tokens) * model.outputs * _LOGIT_BYTES / layout.tp
    return tokens * kept[batch.recompute] * model.item_bytes + logits


def choose(world: int, model: Model, batch: Batch, card_gib: float | None) -> Choice:
    """The first layout by the rule above that fits. Raises ConfigError with the arithmetic where none does."""
    gib = DEFAULT_CARD_GIB if card_gib is None else card_gib
    reason = (
        "the smaller of the Ascend 910B's two sizes; --card-memory 64 is the other"
        if card_gib is None
        else "--card-memory"
    )
    room = gib * USABLE * _GIB
    why = [f"card memory {gib:g} GiB ({reason}), {USABLE:.0%} of it planned for: {room / _GIB:.1f} GiB"]
    least: tuple[float, Layout] | None = None
    for layout in candidates(world, model, batch):
        found = needs(model, batch, layout)
        fits = found.total <= room
        why.append(f"{layout}: {found}: {'fits' if fits else 'too much'}")
        if fits:
            return Choice(layout, (*why, f"chosen: {layout}, as {_because(layout)}"))
        if least is None or found.total < least[0]:
            least = (found.total, layout)
    assert least is not None  # plain data parallel is always a candidate
    raise ConfigError(
        f"--parallel auto: no layout of {world} cards fits:\n  " + "\n  ".join(why),
        hint=f"The least is {least[0] / _GIB:.1f} GiB with {least[1]}. {_ways_out(batch)}",
    )


def candidates(world: int, model: Model, batch: Batch) -> Iterator[Layout]:
    """In the order of the rule."""
    divide = {(layout.tp, layout.pp): layout for layout in layouts(world, model.sizes, batch.rows, batch.tokens)}
    widths = [tp for tp in divisors(world) if tp in (1, 2, 4, HOST_CARDS) and (tp, 1) in divide]
    tries = [(tp, 1) for tp in widths] + [(widths[-1], pp) for pp in divisors(world // widths[-1]) if pp > 1]
    for key in tries:
        if key in divide:
            layout = divide[key]
            yield layout
            if layout.dp > 1:
                yield replace(layout, zero=1)


def _because(layout: Layout) -> str:
    if layout.pp > 1:
        return "the model does not fit on the cards of one host"
    if layout.tp > 1:
        return "the model does not fit on one card, and does on fewer than a host's"
    return "only the optimizer's state does not fit" if layout.zero else "the model and its data fit on each card"


def _ways_out(batch: Batch) -> str:
    ways = ["more --cards"]
    ways += [f"a smaller --batch-size than {batch.rows}"] if batch.rows > 1 else []
    ways += ["--recompute full"] if batch.recompute != "full" else []
    return f"Give {', '.join(ways)}, or train less of the model (--algo lora)."
