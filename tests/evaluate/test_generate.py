"""Generation with a cache against argmax decoding without one, and how rows end."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS
from petrun.errors import ConfigError, DataError, ModelError, WeightsError
from petrun.evaluate.generate import Generation, Sampling, TextGenerator
from petrun.models import gpt2, llama

VOCAB, POSITIONS = 37, 64
GPT2 = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
}
QWEN3 = {
    **LLAMA,
    "model_type": "qwen3",
    "head_dim": 8,
    "use_sliding_window": True,
    "sliding_window": 5,
    "max_window_layers": 1,
}
FAMILIES = {"gpt2": (gpt2, GPT2), "llama": (llama, LLAMA), "qwen3": (llama, QWEN3)}
PROMPTS = [
    np.random.default_rng(i).integers(1, VOCAB, n).astype(np.int32) for i, n in enumerate((5, 1, 12, 5, 9, 17, 2))
]


def generate(net, prompts, max_new_tokens, sampling=None, rows=None, progress=None, **settings):
    """One call of a generator of its own."""
    return TextGenerator(net, **settings)(prompts, max_new_tokens, sampling=sampling, rows=rows, progress=progress)


def build(name, seed=0):
    """A net with weights large enough for the argmax to wander; (net, its sites)."""
    module, raw = FAMILIES[name]
    config = module.parse(raw)
    net = module.FAMILY.build(config)
    rng = np.random.default_rng(seed)
    for p in net.get_parameters():
        scale = 1.0 if "embed" in p.name or "positions" in p.name or "head" in p.name else 0.4
        value = np.ones(p.shape) if "norm" in p.name and p.name.endswith("weight") else scale * rng.normal(size=p.shape)
        p.set_data(Tensor(value.astype(np.float32)))
    net.set_train(False)
    return net, module.FAMILY.sites(config)


def uncached(net, prompts, count, width=32):
    """Whole sequences again for every token, padded on the right, in PyNative mode; a list of answers."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rows = [list(p) for p in prompts]
    for _ in range(count):
        arrays = np.zeros((3, len(rows), width), np.int32)
        for i, ids in enumerate(rows):
            arrays[0, i, : len(ids)] = ids
            arrays[1, i, : len(ids)] = 1
            arrays[2, i, : len(ids)] = np.arange(len(ids))
        logits = net(*(Tensor(a) for a in arrays)).asnumpy()
        for i, ids in enumerate(rows):
            ids.append(int(logits[i, len(ids) - 1].argmax()))
    ms.set_context(mode=mode)
    return [tuple(ids[len(prompt) :]) for ids, prompt in zip(rows, prompts, strict=True)]


def attach(net, sites, seed=3):
    """LoRA on every linear layer, its B drawn so that it matters."""
    method = METHODS["lora"]
    owned = method.attach(net, method.config(rank=4, alpha=16, target=("all-linear",)), sites, 0)
    rng = np.random.default_rng(seed)
    for p in net.get_parameters():
        if p.name in owned and p.name.endswith("lora_b"):
            p.set_data(Tensor((0.3 * rng.normal(size=p.shape)).astype(np.float32)))
    return owned


class Toy(nn.Cell):
    """A decoder of a few operators, whose cache holds the ids themselves: whatever the host gets wrong shows.

    logits = by_token[id] + by_position[position] + w * (sum of the ids of the row so far), (B, V).
    """

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(7)
        self.by_token = ms.Parameter(Tensor(rng.normal(size=(VOCAB, VOCAB)).astype(np.float32)), name="by_token")
        self.by_position = ms.Parameter(
            Tensor(rng.normal(size=(POSITIONS, VOCAB)).astype(np.float32)), name="positions"
        )
        self.w = Tensor((0.004 * rng.normal(size=(1, VOCAB))).astype(np.float32))

    def check_slots(self, slots):
        assert slots <= POSITIONS

    def logits(self, token, position, cache):
        seen = ops.expand_dims(ops.arange(cache.shape[2]), 0) <= ops.expand_dims(position, 1)
        total = (cache[:, 0, :, 0] * seen.astype(ms.float32)).sum(-1, keepdims=True)
        return ops.gather(self.by_token, token, 0) + ops.gather(self.by_position, position, 0) + total * self.w

    def open_caches(self, rows, slots):
        return (Tensor(np.zeros((rows, 1, slots, 1), np.float32)),)

    def writes_in_place(self):
        return False

    def prefill(self, input_ids, lengths, rows, caches):
        slots, last = caches[0].shape[2], lengths - 1
        ids = input_ids.astype(ms.float32)
        written = ops.concat((ids, ops.zeros((ids.shape[0], slots - ids.shape[1]), ms.float32)), 1)
        cache = ops.tensor_scatter_update(caches[0], rows.reshape((-1, 1)), written.reshape((-1, 1, slots, 1)))
        token = ops.gather_elements(input_ids, 1, last.reshape((-1, 1)))[:, 0]
        return self.logits(token, last, ops.gather(cache, rows, 0)), cache

    def decode(self, input_ids, columns, caches):
        slots = caches[0].shape[2]
        here = (ops.expand_dims(ops.arange(slots), 0) == ops.expand_dims(columns, 1)).astype(ms.float32)
        here = here.reshape((-1, 1, slots, 1))
        cache = caches[0] * (1.0 - here) + here * input_ids.astype(ms.float32).reshape((-1, 1, 1, 1))
        return self.logits(input_ids[:, 0], columns, cache), cache

    def answers(self, prompts, count, eos=()):
        """The same in numpy, a row at a time."""
        table, positions, w = self.by_token.asnumpy(), self.by_position.asnumpy(), self.w.asnumpy()[0]
        found = []
        for prompt in prompts:
            ids = [int(t) for t in prompt]
            while len(ids) < len(prompt) + count:
                token = int((table[ids[-1]] + positions[len(ids) - 1] + w * sum(ids)).argmax())
                if token in eos:
                    break
                ids.append(token)
            found.append(tuple(ids[len(prompt) :]))
        return found


@pytest.fixture
def net(pynative):
    return Toy()


def poison(net, first):
    """NaN in what the net knows of positions, from `first` on."""
    table = net.by_position if isinstance(net, Toy) else net.positions.weight
    value = table.asnumpy().copy()
    value[first:] = np.nan
    table.set_data(Tensor(value))


@pytest.mark.parametrize("name", ["gpt2", *(pytest.param(n, marks=pytest.mark.all_only) for n in ("llama", "qwen3"))])
def test_greedy_equals_decoding_without_a_cache_with_and_without_lora(graph_mode, name):
    """Seven prompts of six lengths in batches of three, in graphs; the last batch is not full. A delta attached later counts."""
    net, sites = build(name)
    generator = TextGenerator(net, eos_ids=(), max_positions=POSITIONS, batch_size=3)
    before = generator(PROMPTS, 6)
    assert [g.tokens for g in before] == uncached(net, PROMPTS, 6)
    assert {g.finish for g in before} == {"length"}
    assert len({t for g in before for t in g.tokens}) > 5
    # One graph for the prompts, one for the tokens, whatever the batch.
    assert [len(step.cell.compile_cache) for step in generator.steps.compiled.values()] == [1, 1]
    steps = list(generator.steps.compiled.values())
    attach(net, sites)
    after = generator(PROMPTS, 6)
    assert [g.tokens for g in after] == uncached(net, PROMPTS, 6)
    assert sum(a.tokens != b.tokens for a, b in zip(after, before, strict=True)) >= 5
    assert all(step not in steps for step in generator.steps.compiled.values())


@pytest.mark.parametrize("name", ["gpt2", *(pytest.param(n, marks=pytest.mark.all_only) for n in ("llama", "qwen3"))])
def test_greedy_equals_decoding_without_a_cache_in_pynative_mode(pynative, name):
    net, sites = build(name)
    attach(net, sites)
    assert [g.tokens for g in generate(net, PROMPTS, 5, eos_ids=(), batch_size=4)] == uncached(net, PROMPTS, 5)


def test_sampling_and_nan_in_graphs(graph_mode):
    """The graph that hands out logits; NaN from a position that only the longer prompt reaches."""
    net, _ = build("gpt2")
    generator = TextGenerator(net, eos_ids=(), batch_size=2)
    sampling = Sampling(temperature=2.0, seed=1)
    answers = generator([PROMPTS[0], PROMPTS[5]], 6, sampling=sampling)
    poison(net, 20)
    with pytest.raises(WeightsError, match="NaN or infinite for row 1\n"):
        generator([PROMPTS[0], PROMPTS[5]], 6, sampling=sampling)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    in_pynative = generate(net, PROMPTS[:1], 6, eos_ids=(), sampling=sampling)
    ms.set_context(mode=ms.GRAPH_MODE)
    assert in_pynative == answers[:1]


def test_rows_end_at_any_end_token(net):
    free = net.answers(PROMPTS, 6)
    eos = [t for t in range(VOCAB) if sum(t in f for f in free) == 2][:2]
    assert len(eos) == 2
    answers = generate(net, PROMPTS, 6, eos_ids=eos, batch_size=4)
    assert [g.tokens for g in answers] == net.answers(PROMPTS, 6, eos)
    for tokens, answer in zip(free, answers, strict=True):
        hits = [i for i, t in enumerate(tokens) if t in eos]
        assert answer.finish == ("eos" if hits else "length")
        assert answer.tokens == (tokens[: hits[0]] if hits else tokens)
    assert {g.finish for g in answers} == {"eos", "length"}


def test_batch_ends_with_its_last_row(net, monkeypatch):
    calls = []
    generator = TextGenerator(net, eos_ids=(generate(net, PROMPTS[:1], 3, eos_ids=())[0].tokens[2],))
    real = generator.steps.decode
    monkeypatch.setattr(generator.steps, "decode", lambda *args: calls.append(args) or real(*args))
    (answer,) = generator(PROMPTS[:1], 30)
    assert len(answer.tokens) <= 2 and answer.finish == "eos"
    assert len(calls) == len(answer.tokens)


def test_rows_stop_where_positions_end(net):
    """Prompts of 62, 40 and 63 tokens in a model with 64 positions, though padding makes the cache longer than that."""
    prompts = [np.random.default_rng(n).integers(1, VOCAB, n).astype(np.int32) for n in (62, 40, 63)]
    answers = generate(net, prompts, 8, eos_ids=(), max_positions=POSITIONS)
    assert [len(g.tokens) for g in answers] == [2, 8, 1]
    assert [g.finish for g in answers] == ["positions", "length", "positions"]
    whole = [net.answers([p], len(g.tokens))[0] for p, g in zip(prompts, answers, strict=True)]
    assert [g.tokens for g in answers] == whole
    with pytest.raises(
        DataError, match="row 7: a prompt of 64 tokens leaves no room for an answer in the model's 64 positions"
    ):
        generate(net, [prompts[0], np.ones(64, np.int32)], 8, eos_ids=(), max_positions=POSITIONS, rows=(3, 7))
    exact = generate(net, prompts[:1], 2, eos_ids=(), max_positions=POSITIONS)
    assert exact[0].finish == "length"


def test_a_model_with_learned_positions_refuses_more(pynative):
    net, _ = build("gpt2")
    with pytest.raises(ModelError, match="need 65 positions"):
        generate(net, [np.ones(60, np.int32)], 5, eos_ids=())


def test_equal_prompts_are_answered_once_and_batches_do_not_matter(net):
    prompts = [PROMPTS[i] for i in (2, 0, 2, 4, 0, 2, 1)]
    seen = []
    answers = generate(net, prompts, 7, eos_ids=(), batch_size=2, progress=lambda *at: seen.append(at))
    assert answers == [g for p in prompts for g in generate(net, [p], 7, eos_ids=())]
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5, 6, 7] and {total for _, total in seen} == {7}


def test_many_prompts_take_a_few_widths(net, monkeypatch):
    """900 distinct prompts of 1 to 30 tokens: at most four widths, in batches that are all of one size."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, VOCAB, 1 + i % 30) for i in range(900)]
    generator = TextGenerator(net, eos_ids=(), batch_size=64)
    shapes = []
    real = generator.steps.prefill

    def recorded(caches, prompts, rows, adapters, width):
        shapes.append((len(prompts), width))
        return real(caches, prompts, rows, adapters, width)

    monkeypatch.setattr(generator.steps, "prefill", recorded)
    answers = generator(prompts, 1)
    assert 2 <= len(set(shapes)) <= 4 and {rows for rows, _ in shapes} == {64}
    assert [g.tokens for g in answers[:40]] == net.answers(prompts[:40], 1)


def test_sampling_depends_on_seed_and_row_alone(net):
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.95, seed=4)
    one = generate(net, PROMPTS, 8, eos_ids=(), batch_size=7, sampling=sampling)
    many = generate(net, PROMPTS, 8, eos_ids=(), batch_size=2, sampling=sampling)
    assert one == many
    part = generate(net, PROMPTS[2:4], 8, eos_ids=(), rows=(2, 3), sampling=sampling)
    assert part == one[2:4]
    assert generate(net, PROMPTS, 8, eos_ids=(), sampling=Sampling(0.9, 20, 0.95, seed=5)) != one
    same = generate(net, [PROMPTS[0]] * 6, 8, eos_ids=(), sampling=Sampling(temperature=5.0))
    assert len({g.tokens for g in same}) > 1


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(temperature=1e-4), Sampling(top_p=1e-6)])
def test_sampling_narrowed_to_one_token_is_greedy(net, sampling):
    assert generate(net, PROMPTS, 5, eos_ids=(), sampling=sampling) == generate(net, PROMPTS, 5, eos_ids=())


def frequencies(sampling, logits, draws=4000):
    stream = sampling.stream(0)
    return np.bincount([sampling.draw(logits, stream) for _ in range(draws)], minlength=len(logits)) / draws


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    assert frequencies(Sampling(), logits) == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=0.03)
    squared = np.array([0.1, 0.4, 0.2, 0.3]) ** 2
    assert frequencies(Sampling(temperature=0.5), logits) == pytest.approx(squared / squared.sum(), abs=0.03)
    assert frequencies(Sampling(top_k=2), logits) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.03)
    # 0.4 + 0.3 < 0.75 <= 0.4 + 0.3 + 0.2.
    assert frequencies(Sampling(top_p=0.75), logits) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=0.03)
    assert frequencies(Sampling(top_k=3, top_p=0.7), logits) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.03)


def test_sampling_settings_out_of_range_are_named_together():
    with pytest.raises(ConfigError) as caught:
        Sampling(temperature=-1.0, top_k=-1, top_p=1.5, seed=-1, repetition_penalty=0.0)
    assert "temperature = -1.0" in caught.value.message and "top_k = -1" in caught.value.message
    assert "top_p = 1.5" in caught.value.message and "repetition_penalty = 0.0" in caught.value.message
    assert "seed = -1" in caught.value.message


@pytest.mark.parametrize("sampling", [None, Sampling()])
def test_nan_is_an_error_that_names_the_row(net, sampling):
    poison(net, 15)
    fine = generate(net, [PROMPTS[0], PROMPTS[1]], 10, eos_ids=(), sampling=sampling)
    assert [len(g.tokens) for g in fine] == [10, 10]
    # Row 41 meets the bad position at once, row 40 after four tokens.
    with pytest.raises(WeightsError, match="NaN or infinite for row 41\n"):
        generate(net, [PROMPTS[2], PROMPTS[5]], 10, eos_ids=(), rows=(40, 41), sampling=sampling)
    with pytest.raises(WeightsError, match="NaN or infinite for row 40\n"):
        generate(net, [PROMPTS[2]], 10, eos_ids=(), rows=(40,), sampling=sampling)


def test_a_row_that_has_ended_cannot_fail(net):
    long = PROMPTS[5][:14]
    eos = generate(net, [long], 1, eos_ids=())[0].tokens
    poison(net, 15)
    answers = generate(net, [long, PROMPTS[1]], 10, eos_ids=eos)
    assert answers[0] == Generation((), "eos")
    assert len(answers[1].tokens) > 0


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_dropout_is_off(pynative, training):
    net, _ = build("gpt2")
    expected = uncached(net, PROMPTS[:2], 2)
    net.set_train(training)
    assert [g.tokens for g in generate(net, PROMPTS[:2], 2, eos_ids=())] == expected
    assert net.training is training and net.dropout.training is training


def test_bad_requests(net):
    with pytest.raises(DataError, match="row 9: the prompt holds no tokens"):
        generate(net, [PROMPTS[0], []], 4, eos_ids=(), rows=(8, 9))
    with pytest.raises(ConfigError, match="max_new_tokens = 0"):
        generate(net, PROMPTS, 0, eos_ids=())
    with pytest.raises(ModelError, match="Dense cannot generate"):
        generate(nn.Dense(2, 2), PROMPTS, 4, eos_ids=())
    assert generate(net, [], 4, eos_ids=()) == []
