"""Virtual tokens in nets that know of them and in nets that do not: masks, positions, caches, sites that are missing."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta import METHODS
from petrun.errors import ModelError, TargetError
from petrun.evaluate.generate import TextGenerator
from petrun.graph.sites import Sites
from petrun.graph.virtual_tokens import PREFIX, PROMPT, reserve
from petrun.models.decoding import CausalMask, cached_mask, virtual_positions
from tests.evaluate.test_generate import PROMPTS, build, uncached

KINDS = {"prefix": {"tokens": 3, "middle": 5}, "prompt": {"tokens": 3}}


def attached(net, sites, algo):
    """Attach, and make the learned vectors large enough to matter."""
    method = METHODS[algo]
    owned = method.attach(net, method.config(**KINDS[algo]), sites, 0)
    rng = np.random.default_rng(2)
    for p in net.get_parameters():
        if p.name in owned:
            p.set_data(Tensor(rng.normal(size=p.shape).astype(np.float32)))
    return owned


@pytest.mark.parametrize(
    ("name", "algo"),
    [
        ("qwen3", "prefix"),
        *(
            pytest.param(n, a, marks=pytest.mark.all_only)
            for n, a in (
                ("gpt2", "prompt"),
                ("gpt2", "prefix"),
                ("qwen3", "prompt"),
                ("llama", "prefix"),
                ("llama", "prompt"),
            )
        ),
    ],
)
def test_generation_with_a_cache_equals_generation_without(graph_mode, name, algo):
    net, sites = build(name)
    generator = TextGenerator(net, eos_ids=(), batch_size=3)
    before = [g.tokens for g in generator(PROMPTS, 6)]
    attached(net, sites, algo)
    after = [g.tokens for g in generator(PROMPTS, 6)]
    assert after == uncached(net, PROMPTS, 6)
    assert sum(a != b for a, b in zip(after, before, strict=True)) >= 5


def test_virtual_tokens_take_learned_positions(pynative):
    net, sites = build("gpt2")
    net.check_slots(net.longest)
    attached(net, sites, "prefix")
    net.check_slots(net.longest - 3)
    with pytest.raises(ModelError, match="positions"):
        net.check_slots(net.longest - 2)


@pytest.mark.parametrize("window", [0, 3])
def test_causal_mask_against_its_definition(pynative, window):
    segments = np.array([[0, 1, 1, 2], [1, 1, 0, 0]], np.int32)
    for prefix, prompt in ((0, 0), (2, 0), (0, 2), (1, 2)):
        positions = np.array([[0, 0, 1, 0], [0, 1, 1, 1]], np.int32)
        got = CausalMask()(Tensor(segments), Tensor(positions), window, prefix, prompt).asnumpy()
        virtual = prefix + prompt
        assert got.shape == (2, 1, prompt + 4, virtual + 4)
        for b in range(2):
            for q in range(prefix, virtual + 4):
                for k in range(virtual + 4):
                    own = segments[b, q - virtual] if q >= virtual else -1
                    other = segments[b, k - virtual] if k >= virtual else -1
                    # Between tokens columns count; from a virtual token the place in the row, behind the virtual ones.
                    at = virtual + positions[b, q - virtual] if k < virtual <= q else q
                    near = k <= at and k <= q and (window == 0 or at - k < window)
                    assert got[b, 0, q - prefix, k] == (near and (k < virtual or own == other)), (b, q, k)


def test_cached_mask_and_positions(pynative):
    """Two virtual tokens, then five slots; the rows' tokens are in slots 2 and 3."""
    columns = Tensor(np.array([2, 3], np.int32))
    mask = cached_mask(columns, 5, 0, 2).asnumpy()[:, 0, 0]
    assert mask.tolist() == [[True] * 5 + [False] * 2, [True] * 6 + [False]]
    near = cached_mask(columns, 5, 4, 2).asnumpy()[:, 0, 0]
    assert near.tolist() == [[False] + [True] * 4 + [False] * 2, [False] * 2 + [True] * 4 + [False]]
    at = virtual_positions(Tensor(np.array([[0, 0, 1]], np.int32)), 1, 2).asnumpy()
    assert at.tolist() == [[1, 2, 3, 3, 4]]


class Core(nn.Cell):
    def construct(self, q, k, v, mask):
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) + (mask.astype(ms.float32) - 1.0) * 1e9
        return ops.matmul(ops.softmax(scores, -1), v)


class Own(nn.Cell):
    """A user's decoder that knows nothing of virtual tokens: lengths come from the hidden state."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.embed = nn.Embedding(9, 8)
        self.core = Core()
        self.head = nn.Dense(8, 9)
        for p in self.get_parameters():
            p.set_data(Tensor(rng.normal(size=p.shape).astype(np.float32)))

    def construct(self, ids):
        x = self.embed(ids)
        b, t, h = x.shape
        split = x.reshape(b, t, 2, 4).swapaxes(1, 2)
        mask = ops.tril(ops.ones((t, t))).astype(ms.bool_).reshape(1, 1, t, t)
        y = self.core(split, split, split, ops.broadcast_to(mask, (b, 1, t, t)))
        return self.head(x + y.swapaxes(1, 2).reshape(b, t, h))


SITES = Sites(embedding="embed", head="head", cores="core", hidden=8, heads=2, kv_heads=2, head_dim=4, layers=1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(values, ids, prompt=None, kv=None):
    """Own in numpy, one row: prompt (P, H) before the embedded row, kv (2, N, P, D) before its keys and values."""
    x = values["embed.embedding_table"][ids]
    if prompt is not None:
        x = np.concatenate((prompt, x))
    heads = x.reshape(len(x), 2, 4).transpose(1, 0, 2)
    k = v = heads
    virtual = 0
    if kv is not None:
        virtual = kv.shape[2]
        k, v = np.concatenate((kv[0], heads), 1), np.concatenate((kv[1], heads), 1)
    hidden = np.tril(np.ones((len(x), len(x))))
    hidden = np.concatenate((np.ones((len(x), virtual)), hidden), 1)
    y = softmax(np.where(hidden > 0, heads @ k.transpose(0, 2, 1), -1e9)) @ v
    y = x + y.transpose(1, 0, 2).reshape(len(x), 8)
    out = y @ values["head.weight"].T + values["head.bias"]
    return out[len(x) - len(ids) :]


@pytest.mark.parametrize("algo", ["prompt", "ptuning2"])
def test_a_net_of_the_users_own_against_numpy(mode, algo):
    net = Own()
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32)
    before = net(Tensor(ids)).asnumpy()
    method = METHODS[algo]
    (name,) = method.attach(net, method.config(tokens=3), SITES, 0)
    values = {p.name: p.asnumpy() for p in net.get_parameters()}
    learned = np.random.default_rng(1).normal(size=values[name].shape).astype(np.float32)
    next(p for p in net.get_parameters() if p.name == name).set_data(Tensor(learned))
    got = net(Tensor(ids)).asnumpy()
    extra = {"prompt": learned} if algo == "prompt" else {"kv": learned.reshape(3, 2, 2, 4).transpose(1, 2, 0, 3)}
    for row, logits, old in zip(ids, got, before, strict=True):
        np.testing.assert_allclose(logits, reference(values, row, **extra), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(old, reference(values, row), rtol=1e-4, atol=1e-5)
    assert np.abs(got - before).max() > 0.1


class Plain(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 4)
        self.table = Parameter(Tensor(np.zeros((2, 2), np.float32)), name="table")

    def construct(self, x):
        return self.first(x)


@pytest.mark.parametrize(
    ("algo", "sites", "message"),
    [
        ("prefix", Sites(kv_heads=1, head_dim=4), "names no attention cores"),
        ("ptuning2", Sites(cores="layers.*.core", kv_heads=1, head_dim=4), "names no attention cores"),
        ("prefix", Sites(cores="first"), "how many key/value heads"),
        ("prompt", Sites(hidden=4), "names no token embedding"),
        ("ptuning", Sites(hidden=4, embedding="embed"), "names no token embedding"),
        ("ptuning", Sites(embedding="first"), "how wide its embeddings"),
    ],
)
def test_a_site_that_is_missing_is_an_error(algo, sites, message):
    with pytest.raises(TargetError, match=message):
        METHODS[algo].attach(Plain(), METHODS[algo].config(tokens=2), sites, 0)


def test_virtual_tokens_are_reserved_once(pynative):
    net, _ = build("gpt2")
    assert reserve(net, PREFIX, 2) and reserve(net, PROMPT, 3)
    with pytest.raises(TargetError, match="virtual tokens already"):
        reserve(net, PREFIX, 2)
    assert not reserve(Plain(), PREFIX, 2)
