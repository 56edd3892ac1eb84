"""The rule of `--parallel auto`, on models whose bytes are counted by hand."""

import random
from dataclasses import replace

import pytest

from petrun.errors import ConfigError
from petrun.parallel.auto import Batch, Candidate, Model, candidates, choose, needs
from petrun.parallel.layout import Layout
from petrun.parallel.validate import Sizes, fits

GIB = 2**30
LAYER = 4 * 4096**2 + 3 * 4096 * 11008
LLAMA_7B = Model(
    layer_values=32 * LAYER,
    other_values=2 * 32000 * 4096,
    trained_layer=4_194_304,
    trained_other=0,
    hidden=4096,
    wide=11008,
    heads=32,
    layers=32,
    outputs=32000,
    item_bytes=2,
    sizes=Sizes(heads=32, kv_heads=32, wide=11008, layers=32),
)
FULL_7B = replace(LLAMA_7B, trained_layer=LLAMA_7B.layer_values, trained_other=LLAMA_7B.other_values)
ONE = Batch(rows=1, tokens=2048)
LAYER_13B = 4 * 5120**2 + 3 * 5120 * 13824
LLAMA_13B = replace(
    LLAMA_7B, layer_values=40 * LAYER_13B, other_values=2 * 32000 * 5120, trained_layer=6_553_600, hidden=5120, wide=13824, heads=40,
    layers=40, sizes=Sizes(heads=40, kv_heads=40, wide=13824, layers=40),
)  # fmt: skip


def test_bytes_of_weights_gradients_and_optimizer():
    values = 6_738_149_376
    assert LLAMA_7B.layer_values + LLAMA_7B.other_values == values
    lora = needs(LLAMA_7B, ONE, Layout(dp=8))
    assert (lora.gradients, lora.optimizer) == (4 * 4_194_304, 8 * 4_194_304)
    assert lora.weights == (values - 4_194_304) * 2 + 4_194_304 * 6
    # Trained weights are there twice: float32, and as they are computed with.
    full = needs(FULL_7B, ONE, Layout(dp=8))
    assert (full.weights, full.gradients, full.optimizer) == (values * 6, values * 4, values * 8)
    one = needs(FULL_7B, ONE, Layout(dp=8, zero=1))
    assert (one.weights, one.gradients, one.optimizer) == (values / 2 + 2 * values, values / 2, values)
    assert needs(FULL_7B, ONE, Layout(dp=8, zero=3)).weights == values / 2 + 2 * 2 * 32000 * 4096
    assert needs(replace(FULL_7B, item_bytes=4), ONE, Layout()).weights == values * 4
    assert needs(FULL_7B, replace(ONE, accumulate=True), Layout()).gradients == values * 8
    assert needs(FULL_7B, replace(ONE, offload=True), Layout()).optimizer == 0
    sharded = needs(FULL_7B, ONE, Layout(dp=1, tp=2, pp=4, micro_batches=4))
    assert sharded.weights == (32 * LAYER / 8 + 32000 * 4096) * 6


def test_activations_are_near_what_mindspore_plans():
    """Peaks of `petrun rehearse --level 1` less what is held: 7B with LoRA, 1 x 2048 tokens, and GPT-2 of 4 layers, 8 x 512."""
    assert needs(LLAMA_7B, ONE, Layout(dp=8)).activations / GIB == pytest.approx(26.2 - 12.6, rel=0.2)
    gpt2 = Model(
        layer_values=1,
        other_values=1,
        trained_layer=1,
        trained_other=0,
        hidden=768,
        wide=3072,
        heads=12,
        layers=4,
        outputs=50257,
        item_bytes=2,
        sizes=Sizes(heads=12, kv_heads=12, wide=3072, layers=4),
    )
    assert needs(gpt2, Batch(rows=8, tokens=512), Layout(dp=2)).activations / GIB == pytest.approx(3.6 - 0.13, rel=0.2)


def test_sums_are_near_what_mindspore_plans():
    """Peaks of `petrun rehearse --algo full --cards 8 --seq-len 2048 --batch-size 1 --ranks 0` of two layers of a Llama of 13 B, in GiB."""
    two = replace(
        FULL_7B, layer_values=2 * LAYER_13B, trained_layer=2 * LAYER_13B, other_values=2 * 32000 * 5120, trained_other=2 * 32000 * 5120,
        hidden=5120, wide=13824, heads=40, layers=2,
    )  # fmt: skip
    for zero, planned in ((0, 17.9), (1, 5.1), (3, 3.9)):
        assert needs(two, ONE, Layout(dp=8, zero=zero)).total / GIB == pytest.approx(planned, rel=0.1)


def test_the_rule():
    def chosen(model, cards, memory, batch=ONE):
        choice = choose(cards, model, batch, memory)
        return str(choice.layout), choice.why[-1].partition(", as ")[2]

    assert chosen(LLAMA_7B, 8, 32) == ("dp=8,tp=1,pp=1,zero=0", "the model and its data fit on each card")
    split = "what is held fits where the data-parallel ranks split it"
    assert chosen(FULL_7B, 8, 64) == ("dp=8,tp=1,pp=1,zero=1", split)
    small = replace(FULL_7B, layer_values=LAYER * 8, trained_layer=LAYER * 8, layers=8)
    assert chosen(small, 8, 32) == ("dp=8,tp=1,pp=1,zero=1", split)
    layout, why = chosen(
        replace(FULL_7B, layer_values=10 * 32 * LAYER, trained_layer=10 * 32 * LAYER), 64, 64, Batch(rows=8, tokens=512)
    )
    assert "tp=4" in layout and "pp=1" in layout and "fewer than a host's" in why
    # Few heads, so that tp cannot make it small enough.
    deep = replace(
        LLAMA_7B,
        layer_values=10 * 32 * LAYER,
        trained_layer=10 * 32 * LAYER,
        layers=4,
        sizes=Sizes(heads=4, kv_heads=2, wide=11008, layers=4),
    )
    layout, why = chosen(deep, 8, 165, Batch(rows=8, tokens=512))
    assert layout == "dp=4,tp=2,pp=1,zero=3" and "one layer at a time" in why
    layout, why = chosen(deep, 8, 152.5, Batch(rows=8, tokens=512))
    assert "pp=4" in layout and "cards of one host" in why
    assert chosen(replace(LLAMA_7B, sizes=None), 8, 32)[0] == "dp=8,tp=1,pp=1,zero=0"


def test_activations_are_computed_again_before_layers_are_cut():
    """A LoRA of 13 B on cards of 32 GiB was given tp=2, with sums inside each layer, though data parallel with less kept fits."""
    free = replace(ONE, free=True)
    choice = choose(8, LLAMA_13B, free, 32)
    assert (choice.layout, choice.recompute) == (Layout(dp=8), "full")
    assert choice.why[-1].endswith("zero=0, recompute=full, as all but the activations fits on each card")
    assert choose(8, LLAMA_13B, free, 64).recompute == "none"
    # What the user has said holds.
    assert choose(8, LLAMA_13B, ONE, 32).layout.tp == 2
    assert {t.recompute for t in candidates(8, LLAMA_13B, replace(free, recompute="select"))} == {"select", "full"}


def test_everything_a_layout_can_have_is_tried():
    tries = [t.layout for t in candidates(64, LLAMA_13B, Batch(rows=8, tokens=2048, free=True))]
    assert {layout.zero for layout in tries} == {0, 1, 3} and any(layout.sequence for layout in tries)
    assert all(layout.tp > 1 and layout.pp == 1 and layout.zero == 0 for layout in tries if layout.sequence)
    # Weights that are gathered for each layer come after the layouts of one host, before pipelines.
    places = {zero: [i for i, layout in enumerate(tries) if layout.zero == zero and layout.pp == 1] for zero in (1, 3)}
    assert max(places[1]) < min(places[3]) < min(i for i, layout in enumerate(tries) if layout.pp > 1)


def test_what_would_be_refused_is_not_chosen():
    """A DoRA fits with tp and is refused with it."""

    def refused(layout):
        return "norms of whole rows" if layout.tp > 1 else ""

    choice = choose(8, FULL_7B, ONE, 32, refused)
    assert choice.layout.tp == 1 and choice.layout.zero == 3
    assert any(line.endswith("fits, and is refused: norms of whole rows") for line in choice.why)


def test_the_reason_is_printed_with_its_arithmetic():
    choice = choose(8, FULL_7B, ONE, None)
    assert choice.why[0].startswith("card memory 32 GiB (the smaller of the Ascend 910B's two sizes")
    assert "dp=8,tp=1,pp=1,zero=0: weights 37.65 + gradients 25.10 + optimizer 50.20 + activations" in choice.why[1]
    assert choice.why[1].endswith("too much") and choice.why[-2].endswith("fits")
    with pytest.raises(ConfigError, match="--parallel auto: no layout of 1 cards fits") as caught:
        choose(1, FULL_7B, Batch(rows=4, tokens=2048), 64)
    for part in ("The least is", "more --cards", "a smaller --batch-size than 4", "--recompute full", "--algo lora"):
        assert part in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        choose(1, FULL_7B, Batch(rows=4, tokens=2048, free=True), 64)
    assert "--recompute" not in caught.value.hint


def test_what_is_chosen_fits_and_nothing_before_it_does():
    drawn = random.Random(3)
    seen = set()
    for _ in range(400):
        heads, layers = drawn.choice((4, 8, 12, 32)), drawn.choice((2, 4, 12, 32))
        hidden = 128 * heads
        layer = 12 * hidden**2 * layers
        other = hidden * 50000
        full = drawn.random() < 0.5
        model = Model(
            layer_values=layer,
            other_values=other,
            trained_layer=layer if full else layer // 500,
            trained_other=other if full else 0,
            hidden=hidden,
            wide=4 * hidden,
            heads=heads,
            layers=layers,
            outputs=50000,
            item_bytes=drawn.choice((2, 4)),
            sizes=drawn.choice((Sizes(heads=heads, kv_heads=heads // 2, wide=4 * hidden, layers=layers), None)),
        )
        batch = Batch(
            rows=drawn.choice((1, 4, 8)),
            tokens=drawn.choice((128, 2048)),
            recompute=drawn.choice(("none", "select", "full")),
            free=drawn.choice((True, False)),
        )
        world, memory = drawn.choice((1, 2, 8, 12, 64)), drawn.choice((8, 32, 64))
        room = memory * 0.9 * GIB
        order = list(candidates(world, model, batch))
        assert all(
            t.layout.world == world and t.layout.tp <= 8 and fits(t.layout, model.sizes, batch.rows, batch.tokens)
            for t in order
        )
        assert batch.free or {t.recompute for t in order} == {batch.recompute}
        good = [t for t in order if needs(model, replace(batch, recompute=t.recompute), t.layout).total <= room]
        try:
            choice = choose(world, model, batch, memory)
        except ConfigError:
            assert not good
            seen.add("none")
            continue
        layout, found = choice.layout, Candidate(choice.layout, choice.recompute)
        assert found == good[0]
        seen.add("pp" if layout.pp > 1 else "tp" if layout.tp > 1 else f"zero{layout.zero}" if layout.zero else "dp")
        seen |= {"sequence"} if layout.sequence else set()
        more = choose(world, model, batch, 2 * memory)
        assert order.index(Candidate(more.layout, more.recompute)) <= order.index(found), (
            "more memory never asks for more shards"
        )
    assert seen == {"none", "tp", "zero1", "zero3", "sequence", "dp"}
