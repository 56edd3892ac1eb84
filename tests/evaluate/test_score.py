"""Exact means over a set, whatever its batches, in both execution modes."""

import json
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.data.batches.buckets import plan_batches
from petrun.data.batches.collate import collate
from petrun.delta.lora import METHOD, LoraConfig
from petrun.errors import DataError, WeightsError
from petrun.evaluate.score import Runner, Scorer, TokenScores, logits, score
from petrun.graph.sites import Sites
from petrun.kernels import Dropout
from tests.data.loading import read_examples

VOCAB, HIDDEN, CLASSES, WIDTH = 11, 6, 3, 5
RNG = np.random.default_rng(5)


def tensor(*shape, scale=1.0):
    return Tensor((scale * np.random.default_rng(shape).normal(size=shape)).astype(np.float32))


class Decoder(nn.Cell):
    """A token sees itself and the mean of its segment; dropout shows whether training mode is on."""

    def __init__(self):
        super().__init__()
        self.table = ms.Parameter(tensor(VOCAB, HIDDEN), name="table")
        self.up = nn.Dense(HIDDEN, HIDDEN, weight_init=tensor(HIDDEN, HIDDEN + 0), bias_init="zeros")
        self.head = nn.Dense(HIDDEN, VOCAB, weight_init=tensor(VOCAB, HIDDEN), bias_init="zeros")
        self.dropout = Dropout(0.5, 0, "test")

    def construct(self, input_ids, segment_ids):
        x = ops.gather(self.table, input_ids, 0)
        same = ops.expand_dims(segment_ids, 2) == ops.expand_dims(segment_ids, 1)
        weight = same.astype(ms.float32)
        mean = ops.bmm(weight, x) / weight.sum(-1, keepdims=True)
        return self.head(ops.tanh(self.up(self.dropout(x + mean))))


class Classifier(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(WIDTH, CLASSES, weight_init=tensor(CLASSES, WIDTH), bias_init="zeros")
        self.dropout = Dropout(0.5, 0, "test")

    def construct(self, x):
        return self.dense(self.dropout(x))


LENGTHS = [4, 7, 5, 7, 3, 6, 2]
ROWS = [(RNG.integers(0, VOCAB, n).astype(np.int32), RNG.integers(0, VOCAB, n).astype(np.int32)) for n in LENGTHS]
for _, labels in ROWS:
    labels[0] = -100
ROWS[6][1][:] = -100
DECODER_INPUTS = ("input_ids", "segment_ids")


def decoder_batch(rows, length, left=False):
    batch = {
        "input_ids": np.zeros((len(rows), length), np.int32),
        "segment_ids": np.zeros((len(rows), length), np.int32),
    }
    batch["targets"] = np.full((len(rows), length), -100, np.int32)
    for i, row in enumerate(rows):
        ids, labels = ROWS[row]
        at = slice(length - len(ids), length) if left else slice(0, len(ids))
        batch["input_ids"][i, at] = ids
        batch["segment_ids"][i, at] = 1
        batch["targets"][i, at] = labels
    batch["rows"] = tuple(rows)
    return batch


def decoder_expected(net, rows=(0, 1, 2, 3, 4, 5, 6)):
    """Per row, in float64: (loss sum, count, hits)."""
    p = {q.name: q.asnumpy().astype(np.float64) for q in net.get_parameters()}
    result = []
    for row in rows:
        ids, labels = ROWS[row]
        x = p["table"][ids]
        h = np.tanh((x + x.mean(0)) @ p["up.weight"].T + p["up.bias"])
        z = h @ p["head.weight"].T + p["head.bias"]
        log_probs = z - np.log(np.exp(z).sum(-1, keepdims=True))
        known = labels != -100
        picked = -log_probs[np.arange(len(ids)), np.where(known, labels, 0)]
        result.append((picked[known].sum(), known.sum(), (z.argmax(-1) == labels)[known].sum()))
    return np.array(result)


def test_decoder_figures_are_the_formulas(mode):
    net = Decoder()
    expected = decoder_expected(net)
    losses, counts, hits = expected.sum(0)
    scores = score(
        net, [decoder_batch([0, 3, 1], 8), decoder_batch([5, 2, 4], 8), decoder_batch([6], 8)], DECODER_INPUTS, "lm"
    )
    assert scores.metrics == pytest.approx(
        {"loss": losses / counts, "perplexity": math.exp(losses / counts), "token_accuracy": hits / counts}, rel=1e-5
    )
    assert scores.rows.tolist() == list(range(7))
    np.testing.assert_allclose(scores.losses, expected[:, 0], rtol=1e-5, atol=1e-6)
    assert scores.counts.tolist() == expected[:, 1].tolist() == [3, 6, 4, 6, 2, 5, 0]
    assert scores.hits.tolist() == expected[:, 2].tolist()
    assert scores.predictions is None


def test_figures_do_not_depend_on_batches_padding_or_order(graph_mode):
    net = Decoder()
    whole = score(net, [decoder_batch(range(7), 7)], DECODER_INPUTS, "instruct")
    apart = score(
        net,
        [decoder_batch([6, 1], 12, left=True), decoder_batch([3], 9), decoder_batch([0, 5, 4, 2], 7)],
        DECODER_INPUTS,
        "instruct",
    )
    assert apart.rows.tolist() == whole.rows.tolist()
    np.testing.assert_allclose(apart.losses, whole.losses, rtol=1e-5, atol=1e-6)
    assert apart.metrics == pytest.approx(whole.metrics, rel=1e-6)


def test_packed_rows_are_told_apart(graph_mode):
    net = Decoder()
    batch = decoder_batch([0, 2], 16)
    for i, row, at, segment in ((0, 1, 5, 2), (1, 5, 8, 2), (1, 4, 5, 3)):
        ids, labels = ROWS[row]
        part = slice(at, at + len(ids))
        if row == 4:
            part = slice(14, 16)
            ids, labels = ids[:2], labels[:2]
        batch["input_ids"][i, part], batch["targets"][i, part], batch["segment_ids"][i, part] = ids, labels, segment
    batch["rows"] = (0, 1, 2, 5, 4)
    scores = score(net, [batch], DECODER_INPUTS, "lm")
    assert scores.rows.tolist() == [0, 1, 2, 4, 5]
    expected = decoder_expected(net, [0, 1, 2, 5])
    kept = [0, 1, 2, 4]
    np.testing.assert_allclose(scores.losses[kept], expected[:, 0], rtol=1e-5, atol=1e-6)
    assert scores.counts[kept].tolist() == expected[:, 1].tolist()
    assert scores.counts[3] == 1
    batch["rows"] = (0, 1, 2, 5)
    batch["targets"] = batch["targets"][:1]
    batch["segment_ids"] = batch["segment_ids"][:1]
    batch["input_ids"] = batch["input_ids"][:1]
    with pytest.raises(DataError, match="2 segments for 4 rows"):
        score(net, [batch], DECODER_INPUTS, "lm")


def test_last_batch_counts_its_real_rows_and_compiles_nothing(graph_mode):
    net = Decoder()
    net.set_train(False)
    cell = TokenScores(net)
    runner = Runner(cell)
    full, part = decoder_batch([0, 1, 2], 7), decoder_batch([3], 7)
    first = runner([full[n] for n in ("targets", *DECODER_INPUTS)])
    graphs = len(cell.compile_cache)
    assert graphs == 1
    losses, hits, size = runner([part[n] for n in ("targets", *DECODER_INPUTS)])
    assert len(cell.compile_cache) == graphs
    assert losses.shape == hits.shape == (1, 7) and size == VOCAB
    assert first[0].shape == (3, 7)
    assert losses.sum() == pytest.approx(decoder_expected(net, [3])[0, 0], rel=1e-5)
    other = decoder_batch([3], 9)
    runner([other[n] for n in ("targets", *DECODER_INPUTS)])
    assert len(cell.compile_cache) == graphs + 1


def classify(rows, x, labels, size):
    for at in range(0, len(rows), size):
        part = slice(at, at + size)
        yield {"x": x[part], "targets": labels[part], "rows": tuple(rows[part])}


def test_classifier_figures_are_the_formulas(mode):
    net = Classifier()
    x = RNG.normal(size=(10, WIDTH)).astype(np.float32)
    labels = RNG.integers(0, CLASSES, 10).astype(np.int32)
    labels[4] = -100
    order = RNG.permutation(10)
    z = x.astype(np.float64) @ net.dense.weight.asnumpy().astype(np.float64).T + net.dense.bias.asnumpy()
    prob = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    known = labels != -100
    seen = []
    scores = score(
        net, classify(order, x[order], labels[order], 4), ("x",), "classify", lambda *at: seen.append(at), 10
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert scores.rows.tolist() == list(range(10))
    assert scores.labels.tolist() == labels.tolist()
    assert scores.predictions.tolist() == z.argmax(-1).tolist()
    np.testing.assert_allclose(scores.probabilities, prob, rtol=1e-5, atol=1e-6)
    assert scores.counts.tolist() == known.astype(int).tolist()
    losses = -np.log(prob[np.arange(10), np.where(known, labels, 0)])[known]
    assert scores.losses[known] == pytest.approx(losses, rel=1e-5) and scores.losses[4] == 0.0
    assert scores.metrics["loss"] == pytest.approx(losses.sum() / 9, rel=1e-6)
    assert scores.metrics["accuracy"] == pytest.approx(np.mean(z.argmax(-1)[known] == labels[known]))
    assert set(scores.metrics) == {"accuracy", "f1_macro", "matthews", "loss"}


def test_logits_come_batch_by_batch_without_targets(mode):
    net = Classifier()
    x = RNG.normal(size=(5, WIDTH)).astype(np.float32)
    batches = [{"x": x[:3], "rows": (4, 0, 1)}, {"x": x[3:], "rows": (2, 3)}]
    parts = list(logits(net, batches, ("x",)))
    assert [rows.tolist() for rows, _ in parts] == [[4, 0, 1], [2, 3]]
    assert all(values.dtype == np.float32 for _, values in parts)
    np.testing.assert_allclose(
        np.concatenate([values for _, values in parts]), x @ net.dense.weight.asnumpy().T, rtol=1e-5, atol=1e-6
    )
    batch = decoder_batch([0, 1], 8)
    ((rows, values),) = logits(Decoder(), [batch], DECODER_INPUTS)
    assert values.shape == (2, 8, VOCAB) and rows.tolist() == [0, 1]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_dropout_is_off(mode, training):
    """Also when the consumer stops half-way, or the pass fails."""
    net = Decoder()
    net.set_train(training)
    batch = decoder_batch(range(7), 8)
    figures = [score(net, [batch], DECODER_INPUTS, "lm").metrics["loss"] for _ in range(2)]
    losses, counts, _ = decoder_expected(net).sum(0)
    assert figures == [pytest.approx(losses / counts, rel=1e-5)] * 2
    assert net.training is training and net.dropout.training is training
    stream = logits(net, [batch, batch], DECODER_INPUTS)
    next(stream)
    assert net.dropout.training is training
    with pytest.raises(DataError):
        score(net, [], DECODER_INPUTS, "lm")
    assert net.dropout.training is training


def test_a_delta_attached_between_two_passes_counts(graph_mode):
    net = Decoder()
    scorer = Scorer(net, DECODER_INPUTS, "lm")
    batch = decoder_batch(range(7), 8)
    before = scorer([batch]).metrics["loss"]
    METHOD.attach(net, LoraConfig(rank=2, target=("up",)), Sites(), 0)
    assert scorer([batch]).metrics["loss"] == before
    net.up.mindpet_delta_lora_b.set_data(tensor(HIDDEN, 2))
    after = scorer([batch]).metrics["loss"]
    assert after != pytest.approx(before, rel=1e-3)
    assert score(net, [batch], DECODER_INPUTS, "lm").metrics["loss"] == pytest.approx(after, rel=1e-6)


def test_trained_weights_are_seen_without_compiling_again(graph_mode):
    net = Decoder()
    scorer = Scorer(net, DECODER_INPUTS, "lm")
    batch = decoder_batch(range(7), 8)
    scorer([batch])
    cell = scorer._runner.cell
    net.up.weight.set_data(tensor(HIDDEN, HIDDEN, scale=-2.0))
    losses, counts, _ = decoder_expected(net).sum(0)
    assert scorer([batch]).metrics["loss"] == pytest.approx(losses / counts, rel=1e-4)
    assert scorer._runner.cell is cell and len(cell.compile_cache) == 1


def test_nan_is_an_error_that_names_the_rows(mode):
    net = Decoder()
    table = net.table.asnumpy().copy()
    poison = 10
    table[poison] = np.nan
    net.table.set_data(Tensor(table))
    batches = [decoder_batch([0, 1, 2], 8), decoder_batch([3, 4, 5], 8)]
    bad = [r for r in range(6) if poison in ROWS[r][0]]
    assert 0 < len(bad) < 6
    first = [r for r in bad if r < 3] or bad
    with pytest.raises(WeightsError, match=f"rows? {', '.join(map(str, first))}\n") as caught:
        score(net, batches, DECODER_INPUTS, "lm")
    assert "float16" in caught.value.hint
    with pytest.raises(WeightsError, match="NaN or infinite for row"):
        list(logits(net, batches, DECODER_INPUTS))


def test_nan_under_padding_is_nobody_s(graph_mode):
    net = Decoder()
    table = net.table.asnumpy().copy()
    free = 0
    table[free] = np.nan
    rows = [r for r in range(6) if free not in ROWS[r][0]]
    assert rows
    net.table.set_data(Tensor(table))

    class Apart(Decoder):
        def construct(self, input_ids, segment_ids):
            return self.head(ops.tanh(self.up(ops.gather(self.table, input_ids, 0))))

    apart = Apart()
    apart.table.set_data(Tensor(table))
    batch = decoder_batch(rows, 8)
    assert np.isfinite(score(apart, [batch], DECODER_INPUTS, "lm").metrics["loss"])
    assert len(list(logits(apart, [batch], DECODER_INPUTS))) == 1


def test_classifier_nan_and_ruled_out_classes(graph_mode):
    net = Classifier()
    x = np.ones((4, WIDTH), np.float32)
    x[2] = np.inf
    labels = np.zeros(4, np.int32)
    with pytest.raises(WeightsError, match="for row 12"):
        score(net, classify([10, 11, 12, 13], x, labels, 4), ("x",), "classify")
    net.dense.bias.set_data(Tensor(np.array([0, -np.inf, 0], np.float32)))
    x[2] = 1
    scores = score(net, classify([0, 1, 2, 3], x, labels, 4), ("x",), "classify")
    assert (scores.probabilities[:, 1] == 0).all() and np.isfinite(scores.metrics["loss"])


def test_targets_outside_the_model_are_an_error(mode):
    net = Classifier()
    x = np.ones((3, WIDTH), np.float32)
    with pytest.raises(DataError, match=r"target 3 of row 7 is not in 0\.\.2"):
        score(net, classify([5, 6, 7], x, np.array([0, 1, 3], np.int32), 3), ("x",), "classify")
    batch = decoder_batch([3, 4], 8)
    batch["targets"][1, 1] = VOCAB
    with pytest.raises(DataError, match=rf"target {VOCAB} of row 4 is not in 0\.\.{VOCAB - 1}"):
        score(Decoder(), [batch], DECODER_INPUTS, "lm")


def test_nothing_to_score_is_an_error(graph_mode):
    x = np.ones((2, WIDTH), np.float32)
    with pytest.raises(DataError, match="the data holds no rows"):
        score(Classifier(), [], ("x",), "classify")
    with pytest.raises(DataError, match="none of the 2 rows has a label"):
        score(Classifier(), classify([0, 1], x, np.full(2, -100, np.int32), 2), ("x",), "classify")
    with pytest.raises(DataError, match="none of the 1 rows has a token"):
        score(Decoder(), [decoder_batch([6], 8)], DECODER_INPUTS, "lm")


def test_a_net_of_the_wrong_shape_is_an_error(graph_mode):
    batch = decoder_batch([0, 1], 8)
    batch["targets"] = np.zeros(2, np.int32)
    with pytest.raises(DataError, match=r"needs logits \(B, C\)"):
        score(Decoder(), [batch], DECODER_INPUTS, "classify")
    with pytest.raises(DataError, match="2 rows of logits for 3 rows"):
        list(logits(Classifier(), [{"x": np.ones((2, WIDTH), np.float32), "rows": (0, 1, 2)}], ("x",)))
    with pytest.raises(DataError, match="different lengths"):
        Runner(Decoder())([np.zeros((2, 3), np.int32), np.zeros((1, 3), np.int32)])


def test_batches_of_the_data_room_packed_or_not(graph_mode, tmp_path):
    """Rows from a file, sorted by length or packed several to a sequence: the figures of each row stay the same."""
    lines = [{"input_ids": ids.tolist(), "labels": [-100, *ids[1:].tolist()]} for ids, _ in ROWS]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    examples = read_examples(path, task="lm", tokenizer=None, seq_len=16, vocab_size=VOCAB)
    net = Decoder()
    scorer = Scorer(net, DECODER_INPUTS, "lm")
    found = []
    for pack in (False, True):
        batching = plan_batches(
            examples.lengths, batch_size=2, seq_len=16, order="file" if pack else "length", pack=pack
        )
        plan = batching.epoch(0)
        batches = [collate(examples, plan[k], DECODER_INPUTS) for k in range(len(plan))]
        assert any(len(b.rows) > len(b.targets) for b in batches) is pack
        found.append(scorer({**b.arrays, "rows": b.rows} for b in batches))
    plain, packed = found
    assert plain.rows.tolist() == packed.rows.tolist() == list(range(7))
    assert plain.counts.tolist() == packed.counts.tolist() == [n - 1 for n in LENGTHS]
    assert plain.hits.tolist() == packed.hits.tolist()
    np.testing.assert_allclose(packed.losses, plain.losses, rtol=1e-5, atol=1e-6)
    assert packed.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-6)
