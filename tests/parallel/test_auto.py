"""The rule of `--parallel auto`, on models whose bytes are counted by hand."""

import random
from dataclasses import dataclass, replace

import pytest

from petrun.errors import ConfigError
from petrun.parallel.auto import Batch, Candidate, candidates, choose
from petrun.parallel.layout import Layout
from petrun.parallel.memory.plan import MemoryPlan
from petrun.parallel.validate import Sizes, fits

GIB = 2**30
KEPT = {"none": 1.0, "select": 0.6, "full": 0.1}
"""The share of activations that is kept."""


@dataclass(frozen=True)
class Model:
    """A net in bfloat16, of which only the layers are counted."""

    values: int
    trained: int
    sizes: Sizes | None
    token_bytes: int = 7 * 2**20
    """Of one token's activations."""

    def needed(self, batch):
        """What a card holds, as choose() asks for it."""

        def plan(tried):
            layout = tried.layout
            cut = layout.tp * layout.pp
            ranks = layout.dp if layout.zero else 1
            copied = self.values // 32 if layout.zero == 3 else self.values if layout.zero else self.trained
            tokens = batch.rows * batch.tokens // (layout.tp if layout.sequence else 1)
            return MemoryPlan(
                weights=((self.values - self.trained) * 2 + self.trained * 4) // cut // ranks + 2 * copied // cut,
                optimizer=8 * self.trained // cut // ranks,
                gradients=4 * self.trained // cut // ranks,
                activations=int(tokens * self.token_bytes * KEPT[tried.recompute]) // cut,
                loss=0,
                workspace=0,
            )

        return plan

    def choose(self, cards, batch, memory, **more):
        return choose(cards, self.sizes, batch, self.needed(batch), memory, **more)


LLAMA_7B = Model(6_700_000_000, 4_194_304, Sizes(heads=32, kv_heads=32, wide=11008, layers=32))
FULL_7B = replace(LLAMA_7B, trained=LLAMA_7B.values)
LLAMA_13B = Model(13_000_000_000, 6_553_600, Sizes(heads=40, kv_heads=40, wide=13824, layers=40), 11 * 2**20)
ONE = Batch(rows=1, tokens=2048)


def test_the_rule():
    def chosen(model, cards, memory, batch=ONE):
        choice = model.choose(cards, batch, memory)
        return str(choice.layout), choice.why[-1].partition(", as ")[2]

    assert chosen(LLAMA_7B, 8, 32) == ("dp=8,tp=1,pp=1,zero=0", "the model and its data fit on each card")
    split = "what is held fits where the data-parallel ranks split it"
    assert chosen(FULL_7B, 8, 64) == ("dp=8,tp=1,pp=1,zero=1", split)
    small = replace(FULL_7B, values=FULL_7B.values // 4, trained=FULL_7B.values // 4)
    assert chosen(small, 8, 24) == ("dp=8,tp=1,pp=1,zero=1", split)
    large = replace(FULL_7B, values=10 * FULL_7B.values, trained=10 * FULL_7B.values)
    layout, why = chosen(large, 64, 64, Batch(rows=8, tokens=512))
    assert "tp=4" in layout and "pp=1" in layout and "fewer than a host's" in why
    # Few heads, so that tp cannot make it small enough.
    deep = Model(10 * LLAMA_7B.values, 4_194_304, Sizes(heads=4, kv_heads=2, wide=11008, layers=4))
    layout, why = chosen(deep, 8, 40, Batch(rows=8, tokens=512))
    assert layout == "dp=4,tp=2,pp=1,zero=3" and "one layer at a time" in why
    layout, why = chosen(deep, 8, 25, Batch(rows=8, tokens=512))
    assert "pp=4" in layout and "cards of one host" in why
    assert chosen(replace(LLAMA_7B, sizes=None), 8, 32)[0] == "dp=8,tp=1,pp=1,zero=0"


def test_activations_are_computed_again_before_layers_are_cut():
    """A LoRA of 13 B on cards of 32 GiB was given tp=2, with sums inside each layer, though data parallel with less kept fits."""
    free = replace(ONE, free=True)
    choice = LLAMA_13B.choose(8, free, 32)
    assert (choice.layout, choice.recompute) == (Layout(dp=8), "full")
    assert choice.why[-1].endswith("zero=0, recompute=full, as all but the activations fits on each card")
    assert LLAMA_13B.choose(8, free, 64).recompute == "none"
    # What the user has said holds.
    assert LLAMA_13B.choose(8, ONE, 32).layout.tp == 2
    assert {t.recompute for t in candidates(8, LLAMA_13B.sizes, replace(free, recompute="select"))} == {
        "select",
        "full",
    }


def test_everything_a_layout_can_have_is_tried():
    tries = [t.layout for t in candidates(64, LLAMA_13B.sizes, Batch(rows=8, tokens=2048, free=True))]
    assert {layout.zero for layout in tries} == {0, 1, 3} and any(layout.sequence for layout in tries)
    assert all(layout.tp > 1 and layout.pp == 1 and layout.zero == 0 for layout in tries if layout.sequence)
    # Weights that are gathered for each layer come after the layouts of one host, before pipelines.
    places = {zero: [i for i, layout in enumerate(tries) if layout.zero == zero and layout.pp == 1] for zero in (1, 3)}
    assert max(places[1]) < min(places[3]) < min(i for i, layout in enumerate(tries) if layout.pp > 1)


def test_what_would_be_refused_is_not_chosen():
    """A DoRA fits with tp and is refused with it."""

    def refused(layout):
        return "norms of whole rows" if layout.tp > 1 else ""

    choice = FULL_7B.choose(8, ONE, 32, refused=refused)
    assert choice.layout.tp == 1 and choice.layout.zero == 3
    assert any(line.endswith("fits, and is refused: norms of whole rows") for line in choice.why)


def test_the_reason_is_printed_with_its_arithmetic():
    choice = FULL_7B.choose(8, ONE, None)
    assert choice.why[0].startswith("card memory 32 GiB (the smaller of the Ascend 910B's two sizes")
    plan = FULL_7B.needed(ONE)(Candidate(Layout(dp=8)))
    assert choice.why[1] == f"dp=8,tp=1,pp=1,zero=0: {plan}: too much" and "optimizer 49.9 GiB" in str(plan)
    assert choice.why[-2].endswith("fits")
    with pytest.raises(ConfigError, match="--parallel auto: no layout of 1 cards fits") as caught:
        FULL_7B.choose(1, Batch(rows=4, tokens=2048), 64)
    for part in ("The least is", "more --cards", "a smaller --batch-size than 4", "--recompute full", "--algo lora"):
        assert part in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        FULL_7B.choose(1, Batch(rows=4, tokens=2048, free=True), 64)
    assert "--recompute" not in caught.value.hint


def test_what_is_chosen_fits_and_nothing_before_it_does():
    drawn = random.Random(3)
    seen = set()
    for _ in range(400):
        heads, layers = drawn.choice((4, 8, 12, 32)), drawn.choice((2, 4, 12, 32))
        values = 12 * (128 * heads) ** 2 * layers
        model = Model(
            values,
            values if drawn.random() < 0.5 else values // 500,
            drawn.choice((Sizes(heads=heads, kv_heads=heads // 2, wide=512 * heads, layers=layers), None)),
            token_bytes=128 * heads * layers * drawn.choice((30, 60)),
        )
        batch = Batch(
            rows=drawn.choice((1, 4, 8)),
            tokens=drawn.choice((128, 2048)),
            recompute=drawn.choice(("none", "select", "full")),
            free=drawn.choice((True, False)),
        )
        world, memory = drawn.choice((1, 2, 8, 12, 64)), drawn.choice((8, 32, 64))
        room = memory * 0.9 * GIB
        order = list(candidates(world, model.sizes, batch))
        assert all(
            t.layout.world == world and t.layout.tp <= 8 and fits(t.layout, model.sizes, batch.rows, batch.tokens)
            for t in order
        )
        assert batch.free or {t.recompute for t in order} == {batch.recompute}
        good = [t for t in order if model.needed(batch)(t).total <= room]
        try:
            choice = model.choose(world, batch, memory)
        except ConfigError:
            assert not good
            seen.add("none")
            continue
        layout, found = choice.layout, Candidate(choice.layout, choice.recompute)
        assert found == good[0]
        seen.add("pp" if layout.pp > 1 else "tp" if layout.tp > 1 else f"zero{layout.zero}" if layout.zero else "dp")
        seen |= {"sequence"} if layout.sequence else set()
        more = model.choose(world, batch, 2 * memory)
        assert order.index(Candidate(more.layout, more.recompute)) <= order.index(found), (
            "more memory never asks for more shards"
        )
    assert seen == {"none", "tp", "zero1", "zero3", "sequence", "dp"}
