"""The rule of `--parallel auto`, on models whose bytes are counted by hand."""

import random
from dataclasses import replace

import pytest

from petrun.errors import ConfigError
from petrun.parallel.auto import Batch, Model, candidates, choose, needs
from petrun.parallel.divide import Sizes, fits
from petrun.parallel.layout import Layout

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
    sizes=Sizes(32, 32, 11008, 32),
)
FULL_7B = replace(LLAMA_7B, trained_layer=LLAMA_7B.layer_values, trained_other=LLAMA_7B.other_values)
ONE = Batch(rows=1, tokens=2048)


def test_bytes_of_weights_gradients_and_optimizer():
    values = 6_738_149_376
    assert LLAMA_7B.layer_values + LLAMA_7B.other_values == values
    lora = needs(LLAMA_7B, ONE, Layout(dp=8))
    assert (lora.gradients, lora.optimizer) == (4 * 4_194_304, 8 * 4_194_304)
    assert lora.weights == (values - 4_194_304) * 2 + 4_194_304 * 4
    full = needs(FULL_7B, ONE, Layout(dp=8))
    assert (full.weights, full.gradients, full.optimizer) == (values * 4, values * 4, values * 8)
    assert needs(FULL_7B, ONE, Layout(dp=8, zero=1)).optimizer == values
    assert needs(FULL_7B, ONE, Layout(dp=8, zero=2)).gradients == values / 2
    assert needs(FULL_7B, ONE, Layout(dp=8, zero=3)).weights == values / 2
    assert needs(FULL_7B, replace(ONE, accumulate=True), Layout()).gradients == values * 8
    assert needs(FULL_7B, replace(ONE, offload=True), Layout()).optimizer == 0
    cut = needs(FULL_7B, ONE, Layout(1, 2, 4, micro_batches=4))
    assert cut.weights == (32 * LAYER / 8 + 32000 * 4096) * 4


def test_activations_are_near_what_mindspore_plans():
    """Peaks of `petrun rehearse --level 1` less what is held: 7B with LoRA, 1 x 2048 tokens, and GPT-2 of 4 layers, 8 x 512."""
    assert needs(LLAMA_7B, ONE, Layout(dp=8)).activations / GIB == pytest.approx(26.2 - 12.6, rel=0.2)
    gpt2 = Model(1, 1, 1, 0, 768, 3072, 12, 4, 50257, 2, Sizes(12, 12, 3072, 4))
    assert needs(gpt2, Batch(8, 512), Layout(dp=2)).activations / GIB == pytest.approx(3.6 - 0.13, rel=0.2)


def test_the_rule():
    def chosen(model, cards, memory, batch=ONE):
        choice = choose(cards, model, batch, memory)
        return str(choice.layout), choice.why[-1].partition(", as ")[2]

    assert chosen(LLAMA_7B, 8, 32) == ("dp=8,tp=1,pp=1,zero=0", "the model and its data fit on each card")
    assert chosen(FULL_7B, 8, 64)[0].startswith("dp=4,tp=2,pp=1")
    small = replace(FULL_7B, layer_values=LAYER * 8, trained_layer=LAYER * 8, layers=8)
    assert chosen(small, 8, 32) == ("dp=8,tp=1,pp=1,zero=1", "only the optimizer's state does not fit")
    layout, why = chosen(
        replace(FULL_7B, layer_values=10 * 32 * LAYER, trained_layer=10 * 32 * LAYER), 64, 64, Batch(8, 512)
    )
    assert "tp=8" in layout and "pp=1" not in layout and "cards of one host" in why
    assert chosen(replace(LLAMA_7B, sizes=None), 8, 32)[0] == "dp=8,tp=1,pp=1,zero=0"


def test_the_reason_is_printed_with_its_arithmetic():
    choice = choose(8, FULL_7B, ONE, None)
    assert choice.why[0].startswith("card memory 32 GiB (the smaller of the Ascend 910B's two sizes")
    assert "dp=8,tp=1,pp=1,zero=0: weights 25.10 + gradients 25.10 + optimizer 50.20 + activations" in choice.why[1]
    assert choice.why[1].endswith("too much") and choice.why[-2].endswith("fits")
    with pytest.raises(ConfigError, match="--parallel auto: no layout of 1 cards fits") as caught:
        choose(1, FULL_7B, Batch(4, 2048), 64)
    for part in ("The least is", "more --cards", "a smaller --batch-size than 4", "--recompute full", "--algo lora"):
        assert part in caught.value.hint


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
            layer, other, layer if full else layer // 500, other if full else 0, hidden, 4 * hidden, heads, layers, 50000,
            drawn.choice((2, 4)), drawn.choice((Sizes(heads, heads // 2, 4 * hidden, layers), None)),
        )  # fmt: skip
        batch = Batch(
            drawn.choice((1, 4, 8)), drawn.choice((128, 2048)), recompute=drawn.choice(("none", "select", "full"))
        )
        world, memory = drawn.choice((1, 2, 8, 12, 64)), drawn.choice((8, 32, 64))
        room = memory * 0.9 * GIB
        order = list(candidates(world, model, batch))
        assert all(
            layout.world == world and layout.tp <= 8 and fits(layout, model.sizes, batch.rows, batch.tokens)
            for layout in order
        )
        good = [layout for layout in order if needs(model, batch, layout).total <= room]
        try:
            layout = choose(world, model, batch, memory).layout
        except ConfigError:
            assert not good
            seen.add("none")
            continue
        assert layout == good[0]
        seen.add("pp" if layout.pp > 1 else "tp" if layout.tp > 1 else "zero" if layout.zero else "dp")
        more = choose(world, model, batch, 2 * memory).layout
        assert order.index(more) <= order.index(layout), "more memory never asks for more cuts"
    assert seen == {"none", "pp", "tp", "zero", "dp"}
