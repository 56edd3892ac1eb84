"""Generation with a cache: every number equals the forward pass over the whole sequence."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.errors import ModelError
from petrun.graph.surgery import swap
from petrun.models import gpt2, llama
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.models.factory import load_model
from tests.models import reference

PROMPT, NEW = 7, 4
LENGTHS = (PROMPT + NEW, NEW + 4, NEW + 1)
CASES = {
    "gpt2": reference.GPT2,
    "mistral": {**reference.LLAMA, "model_type": "mistral", "sliding_window": 3},
    "qwen3": {
        **reference.LLAMA,
        "model_type": "qwen3",
        "head_dim": 4,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 2,
        "max_window_layers": 1,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
}


def int32(array):
    return Tensor(np.asarray(array, np.int32))


def rows():
    """Three rows, prompts of several lengths padded on the right, NEW further tokens each."""
    return reference.batch(tokens=PROMPT + NEW, lengths=LENGTHS)


def decode(net, ids, lengths=LENGTHS):
    """Logits (B, 1 + NEW, V): of the prompts' last token, then of every further token, which is given and not chosen."""
    prefill, step = PrefillStep(net), DecodeStep(net)
    prompts = np.array(lengths) - NEW
    # The rows of the cache are taken in another order than the prompts'.
    places = np.arange(len(ids))[::-1].copy()
    caches = net.open_caches(len(ids), PROMPT + NEW)

    def run(cell, *inputs):
        nonlocal caches
        logits, *new = cell(*map(int32, inputs), *caches)
        caches = caches if net.writes_in_place() else new
        return logits.asnumpy()

    found = [run(prefill, ids[:, :PROMPT], prompts, places)]
    for made in range(NEW):
        columns = prompts + made
        found.append(run(step, ids[np.arange(len(ids)), columns][places][:, None], columns[places])[places])
    return np.stack(found, 1)


def load(folder, name):
    config = CASES[name]
    return load_model(reference.write(folder, config, reference.make(config, seed=4)))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_whole_sequence(tmp_path, pynative, name):
    agree(tmp_path, name)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", pytest.param("mistral", marks=pytest.mark.all_only)])
def test_equals_the_whole_sequence_compiled(tmp_path, name):
    agree(tmp_path, name)


def last(logits):
    """Those of each prompt's last token and of the NEW tokens after it."""
    return np.stack([row[n - NEW - 1 : n] for row, n in zip(logits, LENGTHS, strict=True)])


def agree(tmp_path, name):
    net = load(tmp_path, name).net
    names = [p.name for p in net.get_parameters()]
    batch = rows()
    whole = last(net(*map(int32, batch)).asnumpy())
    got = decode(net, batch[0])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, whole, atol=1e-5)
    assert [p.name for p in net.get_parameters()] == names, "a step must not rename the net's parameters"


@pytest.mark.parametrize("name", CASES)
def test_a_row_alone(tmp_path, pynative, name):
    """Neither the padding nor the other rows of the batch change a row."""
    net = load(tmp_path, name).net
    batch = rows()
    short = tuple(a[1:2, : NEW + 4] for a in batch)
    whole = net(*map(int32, short)).asnumpy()[:, 3:]
    np.testing.assert_allclose(decode(net, batch[0])[1:2], whole, atol=1e-5)
    np.testing.assert_allclose(decode(net, batch[0][1:2], LENGTHS[1:2]), whole, atol=1e-5)


class Shifted(nn.Cell):
    """A stand-in for a delta: it takes a projection's place."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def construct(self, x):
        return self.base(x) + 0.5 * x.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_swapped_cells_take_part(tmp_path, pynative, name):
    model = load(tmp_path, name)
    batch = rows()
    before = decode(model.net, batch[0])
    path = "layers.1.attn.qkv" if name == "gpt2" else "layers.1.attn.v"
    swap(model.net, {path: Shifted})
    after = decode(model.net, batch[0])
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, last(model.net(*map(int32, batch)).asnumpy()), atol=1e-5)


def test_steps_keep_one_shape(tmp_path):
    """Every slot of one cache is served by one compiled graph, each row's own slot is written, and nothing else."""
    net = load(tmp_path, "gpt2").net
    ids, _, _ = rows()
    step = DecodeStep(net)
    for slots in ([0, 5, 10], [5, 10, 0]):
        caches = net.open_caches(3, PROMPT + NEW)
        out = step(int32(ids[:, :1]), int32(slots), *caches)
        written = caches[0] if net.writes_in_place() else out[1]
        row, slot = np.nonzero(np.abs(written.asnumpy()).sum((1, 3)))
        assert row.tolist() == [0, 1, 2] and slot.tolist() == slots
    assert len(step.compile_cache) == 1


def test_more_tokens_than_the_model_has_positions():
    net = gpt2.build(gpt2.parse(reference.GPT2))
    net.check_slots(20)
    with pytest.raises(ModelError, match="need 21 positions, the model has n_positions = 20") as caught:
        net.check_slots(21)
    assert "Shorten" in caught.value.hint


def test_dynamic_rope_beyond_its_length():
    net = llama.FAMILY.build(llama.parse({**reference.LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))
    net.check_slots(64)
    with pytest.raises(ModelError, match="max_position_embeddings = 64; 65 tokens"):
        net.check_slots(65)
    llama.FAMILY.build(llama.parse(reference.LLAMA)).check_slots(65)
