"""Layouts that divide and those that do not, by arithmetic."""

import itertools
import random

import pytest

from petrun.config.schema import ParallelConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import Layout, parse_layout
from petrun.parallel.validate import Sizes, divisors, fits, layouts, nearest, spell, validate_layout

LLAMA_7B = Sizes(heads=32, kv_heads=32, wide=11008, layers=32)
LLAMA_8B = Sizes(heads=32, kv_heads=8, wide=14336, layers=32)
GPT2 = Sizes(heads=12, kv_heads=12, wide=3072, layers=12)


def refused(asked, world, sizes=LLAMA_7B, rows=8, tokens=512):
    with pytest.raises(ConfigError) as caught:
        validate_layout(asked, world, sizes, rows, tokens)
    return caught.value


@pytest.mark.parametrize(
    ("asked", "world", "layout"),
    [
        (ParallelConfig(), 8, Layout(dp=8)),
        (ParallelConfig(tp=4), 8, Layout(dp=2, tp=4)),
        (ParallelConfig(dp=2, tp=2, pp=2), 8, Layout(dp=2, tp=2, pp=2, micro_batches=2)),
        (ParallelConfig(dp=4, tp=2, zero=1), 8, Layout(dp=4, tp=2, pp=1, zero=1)),
        (
            ParallelConfig(tp=2, pp=4, micro_batches=8, sequence=True),
            64,
            Layout(dp=8, tp=2, pp=4, micro_batches=8, sequence=True),
        ),
    ],
)
def test_what_divides(asked, world, layout):
    assert validate_layout(asked, world, LLAMA_7B, 8, 512) == layout


@pytest.mark.parametrize(
    ("asked", "world", "sizes", "said"),
    [
        (ParallelConfig(dp=3), 8, LLAMA_7B, ["dp=3 * tp=1 * pp=1 = 3: the job has 8 cards"]),
        (ParallelConfig(tp=3), 8, LLAMA_7B, [
            "tp=3 * pp=1 = 3: does not divide 8 cards", "32 attention heads", "key/value heads", "11008 feat",
        ]),
        (ParallelConfig(tp=16), 16, LLAMA_8B, ["tp=16: does not divide 8 key/value heads"]),
        (ParallelConfig(tp=8), 8, GPT2, ["tp=8: does not divide 12 attention heads", "12 key/value heads"]),
        (ParallelConfig(pp=3), 6, LLAMA_7B, [
            "pp=3: does not divide 32 layers", "micro_batches=3: does not divide the --batch-size of 8 rows",
        ]),
        (ParallelConfig(tp=2, sequence=True), 2, LLAMA_7B, ["sequence=true: tp=2 does not divide rows of 511 tokens"]),
        (ParallelConfig(tp=2, pp=2), 4, None, ["tp=2: this model does not say how it is sharded", "pp=2: this model"]),
    ],
)  # fmt: skip
def test_all_that_does_not_divide_is_told_at_once(asked, world, sizes, said):
    error = refused(asked, world, sizes, tokens=511)
    assert len(error.message.splitlines()) == len(said), error.message
    for line, part in zip(error.message.splitlines(), said, strict=True):
        assert line.startswith("--parallel ") and part in line


def test_the_nearest_that_divide_are_shown():
    assert refused(ParallelConfig(tp=8), 8, GPT2).hint.startswith("These divide: --parallel dp=2,tp=4,pp=1;")
    assert "dp=1,tp=8,pp=2,micro_batches=2" in refused(ParallelConfig(dp=1, tp=16), 16, LLAMA_8B).hint
    assert "zero=1" in refused(ParallelConfig(tp=16, zero=1), 32, LLAMA_8B).hint
    assert "sequence=true" in refused(ParallelConfig(tp=16, sequence=True), 32, LLAMA_8B).hint
    assert "tp=16 does not divide 8, of which" in refused(ParallelConfig(tp=16, sequence=True), 16, LLAMA_7B).message
    # A prime number of cards: what the model allows of it.
    assert refused(ParallelConfig(tp=7), 7, GPT2).hint == "These divide: --parallel dp=7,tp=1,pp=1."


def test_what_is_suggested_can_be_typed_and_divides():
    drawn = random.Random(1)
    seen = 0
    for _ in range(600):
        names = ("heads", "kv_heads", "wide", "layers")
        sizes = Sizes(**{name: drawn.choice((1, 2, 3, 4, 6, 8, 12, 32, 40)) for name in names})
        sizes = Sizes(
            heads=sizes.heads * sizes.kv_heads, kv_heads=sizes.kv_heads, wide=sizes.wide * 64, layers=sizes.layers
        )
        dp = drawn.choice((None, 1, 2, 3, 4))
        asked = ParallelConfig(dp=dp, **{name: drawn.choice((1, 2, 3, 4, 8)) for name in ("tp", "pp")})
        world, rows, tokens = (
            drawn.choice((1, 2, 4, 6, 8, 12, 64)),
            drawn.choice((1, 2, 3, 8)),
            drawn.choice((0, 63, 64)),
        )
        try:
            layout = validate_layout(asked, world, sizes, rows, tokens)
        except ConfigError as error:
            suggested = nearest(asked, world, sizes, rows, tokens)
            # Plain data parallel always divides.
            assert suggested and len(set(suggested)) == len(suggested)
            for layout in suggested:
                assert spell(layout) in error.hint
                again = validate_layout(ParallelConfig(**parse_layout(spell(layout))), world, sizes, rows, tokens)
                assert again == layout and layout.world == world
            seen += 1
        else:
            assert layout.world == world and fits(layout, sizes, rows, tokens)
    assert 100 < seen < 590


def test_layouts_are_all_that_divide():
    found = set(layouts(12, GPT2, 4, 64))
    expected = {
        (dp, tp, pp)
        for dp, tp, pp in itertools.product(range(1, 13), repeat=3)
        if dp * tp * pp == 12 and 12 % tp == 0 and 3072 % tp == 0 and 12 % pp == 0 and pp <= 4
    }
    assert {(layout.dp, layout.tp, layout.pp) for layout in found} == expected
    assert all(4 % layout.micro_batches == 0 and layout.micro_batches >= layout.pp for layout in found)
    assert list(layouts(1, None, 3, 0)) == [Layout()]
    assert [divisors(n) for n in (1, 12, 49)] == [[1], [1, 2, 3, 4, 6, 12], [1, 7, 49]]


def test_what_no_layout_may_be_is_still_refused():
    with pytest.raises(ConfigError, match="zero=1: splits over dp ranks"):
        validate_layout(ParallelConfig(dp=1, tp=8, zero=1), 8, LLAMA_7B, 8, 512)
