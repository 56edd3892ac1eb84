"""Requests that come and go in one batch: each gets what it gets alone."""

import mindspore as ms
import numpy as np
import pytest

from petrun.errors import DataError, PromptTooLong, WeightsError
from petrun.evaluate.continuous import ContinuousBatch
from petrun.evaluate.generate import TextGenerator, powers
from petrun.evaluate.request import Request
from petrun.evaluate.sampling import Sampling
from petrun.graph.compilations import compilations
from tests.evaluate.test_generate import POSITIONS, PROMPTS, VOCAB, Toy, build, poison

DRAWN = Sampling(temperature=1.5, top_p=0.9, seed=3)


def requests():
    """Twelve requests of several lengths, limits and settings."""
    rng = np.random.default_rng(1)
    kinds = (None, DRAWN, Sampling(temperature=0.8, top_k=5, seed=9))
    return [
        Request(
            prompt=rng.integers(1, VOCAB, int(rng.integers(1, 36))).astype(np.int32),
            limit=int(rng.integers(1, 12)),
            row=0,
            sampling=kinds[i % 3],
        )
        for i in range(12)
    ]


def batch(net, rows=4, context=POSITIONS, **settings):
    generator = TextGenerator(net, eos_ids=(), max_positions=POSITIONS, batch_size=rows, **settings)
    return ContinuousBatch(generator, rows, context)


def answers(found, arrivals, leaving=()):
    """Request -> (tokens, finish). `arrivals`: step -> requests that come before it, as there is room; `leaving`: (step, request)."""
    waiting, numbers, got, step = [], {}, {}, 0
    while waiting or numbers or step <= max(arrivals):
        waiting += arrivals.get(step, [])
        while waiting and found.free:
            index, request = waiting.pop(0)
            numbers[found.join(request)] = index
        for when, who in leaving:
            if when == step and who in numbers.values():
                number = next(number for number, index in numbers.items() if index == who)
                found.leave(number)
                del numbers[number]
        for event in found.step():
            tokens, _ = got.get(numbers[event.number], ((), None))
            tokens = tokens if event.token is None else (*tokens, event.token)
            got[numbers[event.number]] = tokens, event.error or event.finish
            if event.finish is not None or event.error is not None:
                del numbers[event.number]
        step += 1
    return got


def alone(found, asked):
    return {i: answers(found, {0: [(i, request)]})[i] for i, request in enumerate(asked)}


def scattered(asked):
    return {
        0: [(0, asked[0])],
        1: list(enumerate(asked))[1:4],
        4: list(enumerate(asked))[4:7],
        6: list(enumerate(asked))[7:],
    }


@pytest.mark.parametrize("name", ["gpt2", pytest.param("llama", marks=pytest.mark.all_only)])
def test_nothing_is_compiled_after_the_warm_up_and_answers_are_those_of_each_alone(graph_mode, name):
    net, _ = build(name)
    found, asked = batch(net), requests()
    found.warm_up()
    with compilations() as count:
        together = answers(found, scattered(asked))
        apart = alone(found, asked)
    assert count.graphs == 0 and found.free == 4
    assert together == apart and len({tokens for tokens, _ in together.values()}) > 8
    # And those of generation in batches of another shape, but for which token's last bit decides.
    generator = TextGenerator(net, eos_ids=(), max_positions=POSITIONS, batch_size=2)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    greedy = [i for i, request in enumerate(asked) if request.sampling is None]
    for i in greedy[:2]:
        (generation,) = generator([asked[i].prompt], asked[i].limit)
        assert together[i] == (generation.tokens, generation.finish)


def test_whoever_comes_and_leaves(pynative):
    net, asked = Toy(), requests()
    apart = alone(batch(net), asked)
    gone = answers(batch(net, rows=3), scattered(asked), leaving=[(2, 1), (5, 4)])
    for i, (tokens, finish) in gone.items():
        if finish is None:
            assert i in (1, 4) and apart[i][0][: len(tokens)] == tokens
        else:
            assert (tokens, finish) == apart[i]
    assert net.answers([asked[0].prompt], asked[0].limit) == [apart[0][0]]


def test_a_row_that_is_not_finite_fails_alone(pynative):
    """Also the next request in its row is answered."""
    net = Toy()
    poison(net, 15)
    short, long = (Request(prompt=PROMPTS[i], limit=4, row=0) for i in (1, 5))
    found = batch(net, rows=2)
    got = answers(found, {0: [("short", short), ("long", long), ("again", short)]})
    assert isinstance(got["long"][1], WeightsError) and got["long"][0] == ()
    assert got["short"] == got["again"] == (net.answers([PROMPTS[1]], 4)[0], "length")


def test_what_a_row_holds(pynative):
    found = batch(Toy(), context=20)
    assert found.context == 20 and powers(20) == [20] and powers(100) == [32, 64, 100] and powers(100, 40)[0] == 64
    request = Request(prompt=np.ones(17, np.int32), limit=9, row=0, where="the prompt")
    assert found.check(request) == 3
    assert answers(found, {0: [(0, request)]})[0][1] == "positions"
    with pytest.raises(
        PromptTooLong, match=r"^the prompt: a prompt of 20 tokens leaves no room for an answer in the 20 tokens"
    ):
        found.join(Request(prompt=np.ones(20, np.int32), limit=9, row=0, where="the prompt"))
    with pytest.raises(DataError, match="holds no tokens"):
        found.join(Request(prompt=np.ones(0, np.int32), limit=9, row=0))
    assert found.free == 4 and batch(Toy(), context=1000).context == POSITIONS
