"""Check by arithmetic whether a model can be sharded as a layout says, before anything is loaded.

Heads, key/value heads and the feed-forward width are split over tp ranks, layers over pp stages, the rows of a data-parallel rank into
micro-batches, tokens over tp ranks where the sequence is split. The vocabulary is not checked: one that tp does not divide (GPT-2's is
50257) is not sharded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log2
from typing import TYPE_CHECKING

from petrun.data.batches.buckets import LENGTH_MULTIPLE
from petrun.errors import ConfigError
from petrun.parallel.layout import Layout, complete_layout

if TYPE_CHECKING:
    from petrun.config.schema import ParallelConfig

_NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model that tp and pp must divide."""

    heads: int
    kv_heads: int
    wide: int
    layers: int
    encoder_decoder: bool = False


def validate_layout(request: ParallelConfig, world: int, sizes: Sizes | None, rows: int, tokens: int) -> Layout:
    """Return the layout of `world` ranks, each data-parallel one with `rows` rows of `tokens` tokens a micro-batch of the accumulation.

    `sizes` None: a model that does not state its sizes, which is not sharded. tokens 0: rows that are not sequences.
    Raises ConfigError with all that does not divide, and the nearest layouts of as many ranks that do.
    """
    problems = _of_ranks(request, world) + _of_model(request, sizes) + _of_rows(request, rows, tokens)
    if not problems:
        # The layout itself refuses numbers that no layout may have.
        return complete_layout(request, world)
    near = nearest(request, world, sizes, rows, tokens)
    hint = f"These divide: {'; '.join(f'--parallel {spell(layout)}' for layout in near)}." if near else ""
    raise ConfigError("\n".join(f"--parallel {problem}" for problem in problems), hint=hint)


def fits(layout: Layout, sizes: Sizes | None, rows: int, tokens: int) -> bool:
    """Return whether the layout divides the model and the batch."""
    return not (_of_model(layout, sizes) + _of_rows(layout, rows, tokens))


def layouts(world: int, sizes: Sizes | None, rows: int, tokens: int) -> Iterator[Layout]:
    """Yield every layout of `world` ranks that divides model and batch, with the fewest micro-batches."""
    for tp in divisors(world):
        for pp in divisors(world // tp):
            parts = next((n for n in divisors(rows) if n >= pp), None) if pp > 1 else 1
            if parts is not None:
                layout = Layout(dp=world // (tp * pp), tp=tp, pp=pp, micro_batches=parts)
                if fits(layout, sizes, rows, tokens):
                    yield layout


def nearest(request: ParallelConfig, world: int, sizes: Sizes | None, rows: int, tokens: int) -> list[Layout]:
    """Return the few layouts most like the request, best first, with its other settings where they can stay."""

    def distance(layout: Layout) -> float:
        far = abs(log2(layout.tp / max(1, request.tp))) + abs(log2(layout.pp / max(1, request.pp)))
        return far + (abs(log2(layout.dp / request.dp)) if request.dp else 0.0)

    found = sorted(layouts(world, sizes, rows, tokens), key=lambda layout: (distance(layout), layout.pp, layout.tp))
    return [_with_request(layout, request, sizes, rows, tokens) for layout in found[:_NEAREST]]


def _with_request(layout: Layout, request: ParallelConfig, sizes: Sizes | None, rows: int, tokens: int) -> Layout:
    """Add the requested zero, sequence and micro_batches, where the layout allows them."""
    zero = request.zero if layout.dp > 1 and 0 <= request.zero <= 3 else 0
    layout = replace(layout, zero=zero)
    if layout.tp > 1 and request.sequence and fits(replace(layout, sequence=True), sizes, rows, tokens):
        layout = replace(layout, sequence=True)
    parts = request.micro_batches
    if layout.pp > 1 and parts is not None and parts >= layout.pp and rows % parts == 0:
        layout = replace(layout, micro_batches=parts)
    return layout


def spell(layout: Layout) -> str:
    """Spell a layout as --parallel takes it, without values at their default."""
    parts = [f"dp={layout.dp}", f"tp={layout.tp}", f"pp={layout.pp}"]
    parts += [f"zero={layout.zero}"] if layout.zero else []
    parts += [f"micro_batches={layout.micro_batches}"] if layout.pp > 1 else []
    return ",".join(parts + (["sequence=true"] if layout.sequence else []))


def divisors(number: int) -> list[int]:
    """Return the divisors of a number in ascending order."""
    low = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _of_ranks(request: ParallelConfig, world: int) -> list[str]:
    rest = request.tp * request.pp
    if request.dp is None:
        return (
            [] if world % rest == 0 else [f"tp={request.tp} * pp={request.pp} = {rest}: does not divide {world} cards"]
        )
    product = request.dp * rest
    shown = f"dp={request.dp} * tp={request.tp} * pp={request.pp} = {product}"
    return [] if product == world else [f"{shown}: the job has {world} cards"]


def _of_model(request: ParallelConfig | Layout, sizes: Sizes | None) -> list[str]:
    if sizes is None:
        refused = [f"{key}={getattr(request, key)}: this model does not say how it is sharded" for key in ("tp", "pp")]
        return [text for text, number in zip(refused, (request.tp, request.pp), strict=True) if number > 1]
    over_tp = (
        ("attention heads", sizes.heads),
        ("key/value heads", sizes.kv_heads),
        ("features of the feed-forward layer", sizes.wide),
    )
    problems = [f"tp={request.tp}: does not divide {count} {what}" for what, count in over_tp if count % request.tp]
    if sizes.encoder_decoder and request.pp > 1:
        problems.append(
            f"pp={request.pp}: every layer of a decoder reads the encoder's result, which is not sent from stage to stage"
        )
    elif sizes.layers % request.pp:
        problems.append(f"pp={request.pp}: does not divide {sizes.layers} layers")
    return problems


def _of_rows(request: ParallelConfig | Layout, rows: int, tokens: int) -> list[str]:
    problems = []
    parts = request.micro_batches if request.micro_batches is not None else request.pp
    if request.pp > 1 and rows % parts:
        problems.append(
            f"micro_batches={parts}: does not divide the --batch-size of {rows} rows on each data-parallel rank"
        )
    if request.sequence and tokens % request.tp:
        problems.append(f"sequence=true: tp={request.tp} does not divide rows of {tokens} tokens")
    elif request.sequence and LENGTH_MULTIPLE % request.tp:
        problems.append(
            f"sequence=true: tp={request.tp} does not divide {LENGTH_MULTIPLE}, of which shorter rows are a multiple"
        )
    return problems
