"""R-Drop against numpy: MindPet's loss of paired rows, and the loss that --algo r_drop trains with."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, mint, nn, ops

from petrun.delta import METHODS, RDropLoss, find_method, rdrop_repeat
from petrun.delta.r_drop import RDropConfig, RDropTraining, drops
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.kernels import Attention, Dropout, batch_offset, step_counter
from petrun.train.loss import SupervisedLoss
from tests.mindpet.numbers import numbers


@pytest.fixture(autouse=True)
def step():
    """Masks follow from the step."""
    step_counter().set_data(Tensor(5, ms.int32))
    yield
    step_counter().set_data(Tensor(0, ms.int32))


def logs(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergences(one, two):
    """KL(p1 || p2) + KL(p2 || p1), each written out."""
    a, b = logs(one), logs(two)
    return (np.exp(a) * (a - b)).sum(-1) + (np.exp(b) * (b - a)).sum(-1)


def entropies(logits, targets):
    return -np.take_along_axis(logs(logits), np.maximum(targets, 0)[..., None], -1)[..., 0] * (targets != -100)


LOGITS = numbers((6, 4), 1)
LABELS = np.array([1, 1, 0, 0, 3, 3], np.int32)


def paired(logits, labels, alpha):
    known = labels != -100
    apart = divergences(logits[0::2], logits[1::2])
    return entropies(logits, labels).sum() / known.sum() + alpha / 4 * apart[known[0::2]].mean()


@pytest.mark.parametrize("alpha", [4, 1.5])
def test_loss_of_pairs_is_the_formula(mode, alpha):
    got = RDropLoss()(Tensor(LOGITS), Tensor(LABELS), alpha)
    np.testing.assert_allclose(float(got.asnumpy()), paired(LOGITS, LABELS, alpha), rtol=1e-5)


def test_alpha_is_4_unless_given_and_labels_may_be_a_column():
    got = RDropLoss()(Tensor(LOGITS), Tensor(LABELS.reshape(6, 1)))
    np.testing.assert_allclose(float(got.asnumpy()), paired(LOGITS, LABELS, 4), rtol=1e-5)


def test_ignored_pairs_count_nowhere():
    labels = np.array([1, 1, -100, -100, 3, 3], np.int32)
    got = RDropLoss()(Tensor(LOGITS), Tensor(labels))
    np.testing.assert_allclose(float(got.asnumpy()), paired(LOGITS[[0, 1, 4, 5]], labels[[0, 1, 4, 5]], 4), rtol=1e-5)


def test_divergence_does_not_grow_with_the_batch():
    """D4: MindPet adds it up over the batch while the cross entropy is a mean: three times the rows, three times the weight."""
    one = RDropLoss()(Tensor(LOGITS), Tensor(LABELS))
    three = RDropLoss()(Tensor(np.tile(LOGITS, (3, 1))), Tensor(np.tile(LABELS, 3)))
    np.testing.assert_allclose(float(three.asnumpy()), float(one.asnumpy()), rtol=1e-5)


def test_labels_may_be_probabilities():
    given = np.exp(logs(numbers((6, 4), 2))).astype(np.float32)
    got = RDropLoss()(Tensor(LOGITS), Tensor(given))
    expected = -(given * logs(LOGITS)).sum(-1).mean() + divergences(LOGITS[0::2], LOGITS[1::2]).mean()
    np.testing.assert_allclose(float(got.asnumpy()), expected, rtol=1e-5)
    row, weights = numbers((6,), 3), np.array([1, 0, 4, 1, 0, 4], np.float32)
    got = RDropLoss()(Tensor(row), Tensor(weights))
    expected = -(weights * logs(row)).sum() + divergences(row[0::2], row[1::2])
    np.testing.assert_allclose(float(got.asnumpy()), expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", ["4", None, True, [4]])
def test_alpha_must_be_a_number(alpha):
    with pytest.raises(TypeError, match="alpha"):
        RDropLoss().construct(Tensor(LOGITS), Tensor(LABELS), alpha)


def test_rows_must_lie_in_pairs():
    with pytest.raises(ValueError, match="rdrop_repeat"):
        RDropLoss().construct(Tensor(LOGITS[:5]), Tensor(LABELS[:5]))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.float16, np.bool_])
def test_repeat_writes_every_row_twice(mode, dtype):
    """MindPet's fails on MindSpore 2: repeat() got an unexpected keyword argument `axis`."""
    items = np.array([1, 0, 3]).astype(dtype), np.arange(12).reshape(3, 2, 2).astype(dtype)
    for item, got in zip(items, rdrop_repeat(*(Tensor(item) for item in items)), strict=True):
        np.testing.assert_array_equal(got.asnumpy(), np.repeat(item, 2, axis=0))
        assert got.asnumpy().dtype == dtype


class Model(nn.Cell):
    """A classifier (B, 5) -> (B, 3), or with (B, T, 5) a decoder; the second input only has to be passed on."""

    def __init__(self, p=0.4):
        super().__init__()
        self.first = nn.Dense(5, 6)
        self.second = nn.Dense(6, 3)
        self.dropout = Dropout(p, 7, "middle")

    def construct(self, x, shift):
        return self.second(self.dropout(ops.tanh(self.first(x)))) + shift


def model(p=0.4, train=True):
    net = Model(p)
    for i, parameter in enumerate(net.get_parameters()):
        parameter.set_data(Tensor(numbers(parameter.shape, i)))
    return net.set_train(train)


def both_passes(net, x, shift):
    """Logits of the two passes: every row written twice."""
    logits = net(*(Tensor(np.repeat(part, 2, axis=0)) for part in (x, shift))).asnumpy()
    return logits[0::2], logits[1::2]


def wrapped(net, kl_weight):
    return METHODS["r_drop"].wrap_loss(SupervisedLoss(net), net, RDropConfig(kl_weight=kl_weight))


def run(loss, denominator, targets, *inputs):
    value, logits = loss(Tensor(denominator, ms.float32), Tensor(targets), *(Tensor(x) for x in inputs))
    return float(value.asnumpy()), logits.asnumpy()


CASES = {
    "classes": (numbers((4, 5), 8), numbers((4, 3), 9), np.array([0, 2, -100, 1], np.int32)),
    "tokens": (
        numbers((2, 3, 5), 8),
        numbers((2, 3, 3), 9),
        np.array([[0, 2, -100], [1, -100, -100]], np.int32),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_loss_is_the_formula(mode, case):
    x, shift, targets = CASES[case]
    net = model()
    one, two = both_passes(net, x, shift)
    assert np.abs(one - two).max() > 0.1
    known = targets != -100
    entropy = (entropies(one, targets).sum() + entropies(two, targets).sum()) / 2
    expected = (entropy + 0.7 * 0.5 * divergences(one, two)[known].sum()) / 3.0
    value, logits = run(wrapped(net, 0.7), 3.0, targets, x, shift)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, one, rtol=1e-5, atol=1e-5)


def test_without_dropout_it_is_the_inner_loss():
    x, shift, targets = CASES["tokens"]
    for net in (model(0.0), model(0.4, train=False)):
        plain, _ = run(SupervisedLoss(net), 3.0, targets, x, shift)
        np.testing.assert_allclose(run(wrapped(net, 5.0), 3.0, targets, x, shift)[0], plain, rtol=1e-5)


def test_micro_batches_add_up_to_the_whole():
    """With the denominator of the whole batch, whatever lies in which part. Without a mask: it follows from the position."""

    class Fixed(nn.Cell):
        """Two different passes of every row, without dropout: logits that depend on where in the doubled batch a row lies."""

        def construct(self, x):
            pairs = ops.reshape(x, (-1, 2, *x.shape[1:]))
            return ops.reshape(ops.concat((pairs[:, :1], 2.0 * pairs[:, 1:]), 1), x.shape)

    x, targets = numbers((4, 3), 8), np.array([0, 2, -100, 1], np.int32)
    whole, _ = run(wrapped(Fixed(), 0.7), 3.0, targets, x)
    parts = [run(wrapped(Fixed(), 0.7), 3.0, targets[rows], x[rows])[0] for rows in (slice(0, 3), slice(3, 4))]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_ranks_shares_add_up_to_the_whole_with_the_masks_of_the_whole(case):
    x, shift, targets = CASES[case]
    loss, total, place = wrapped(model(), 0.7), len(x), batch_offset()
    whole, _ = run(loss, 3.0, targets, x, shift)
    found = 0.0
    for first, stop in ((0, 1), (1, total)):
        place.set_data(Tensor([first, stop - first], ms.int32))
        found += run(loss, 3.0, targets[first:stop], x[first:stop], shift[first:stop])[0]
    place.set_data(Tensor([0, 1], ms.int32))
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    moved = sum(run(loss, 3.0, *(a[part] for a in (targets, x, shift)))[0] for part in (slice(0, 1), slice(1, total)))
    assert abs(moved - whole) > 1e-4, "the masks of another place are others"


def test_the_same_seed_and_step_give_the_same_masks_in_both_modes():
    x, shift, targets = CASES["classes"]
    values = {}
    for chosen in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=chosen)
        loss = wrapped(model(), 1.0)
        values[chosen] = [run(loss, 3.0, targets, x, shift)[0] for _ in range(2)]
        step_counter().set_data(Tensor(6, ms.int32))
        other = run(loss, 3.0, targets, x, shift)[0]
        step_counter().set_data(Tensor(5, ms.int32))
        assert values[chosen][0] == values[chosen][1] != other
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(values[ms.GRAPH_MODE], values[ms.PYNATIVE_MODE], rtol=1e-5)


class Value(nn.Cell):
    def __init__(self, loss):
        super().__init__(auto_prefix=False)
        self.loss = loss

    def construct(self, denominator, targets, x, shift):
        value, _ = self.loss(denominator, targets, x, shift)
        return value


def test_gradient_is_that_of_the_formula(mode):
    """Against differences of the loss, with the masks held by the step."""
    x, shift, targets = CASES["tokens"]
    net = model()
    loss = wrapped(net, 0.7)
    inputs = (Tensor(3.0, ms.float32), Tensor(targets), Tensor(x), Tensor(shift))
    _, (gradient,) = ms.value_and_grad(Value(loss), None, [net.second.weight])(*inputs)
    weight, small = net.second.weight.asnumpy().copy(), 1e-2
    for place in ((0, 0), (1, 3), (2, 5)):
        sides = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[place] += sign * small
            net.second.weight.set_data(Tensor(moved))
            sides.append(run(loss, 3.0, targets, x, shift)[0])
        net.second.weight.set_data(Tensor(weight))
        slope = (sides[0] - sides[1]) / (2 * small)
        np.testing.assert_allclose(gradient.asnumpy()[place], slope, rtol=2e-2, atol=2e-4)


def test_a_row_that_is_not_supervised_may_hold_anything():
    class Passed(nn.Cell):
        def construct(self, x):
            return x

    x = np.array([[1.0, 2.0], [np.inf, 0.0]], np.float32)
    value, _ = run(RDropTraining(SupervisedLoss(Passed()), 1.0), 1.0, np.array([1, -100], np.int32), x)
    np.testing.assert_allclose(value, entropies(x[:1], np.array([1])).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Dropout(0.1, 0, "a"), True),
        (Dropout(0.0, 0, "a"), False),
        (Attention(1.0, 0.1, 0, "a"), True),
        (Attention(1.0), False),
        (nn.Dropout(p=0.1), True),
        (nn.Dropout(p=0.0), False),
        (nn.Dropout(keep_prob=0.9), True),
        (nn.Dropout(keep_prob=1.0), False),
        (nn.Dropout2d(p=0.5), True),
        (mint.nn.Dropout(p=0.5), True),
        (nn.ReLU(), False),
    ],
)
def test_what_counts_as_dropout(cell, expected):
    assert drops(cell) is expected


def test_a_net_that_drops_nothing_is_an_error_at_attach():
    method = METHODS["r_drop"]
    with pytest.raises(ConfigError, match="r_drop needs dropout"):
        method.attach(model(0.0), RDropConfig(), Sites(), 0)
    assert method.attach(model(0.1), RDropConfig(), Sites(), 0) == ()
    with pytest.raises(ValueError):
        RDropConfig(kl_weight=0.0)


def test_it_joins_a_method_and_sees_its_dropout():
    method = find_method("lora+r_drop")
    net = model(0.0)
    dropping = method.config(rank=2, dropout=0.1, target="first")
    owned = method.attach(net, dropping, Sites(), 0)
    assert len(owned) == 2 and all(name.startswith("first.mindpet_delta_lora") for name in owned)
    assert isinstance(method.wrap_loss(SupervisedLoss(net), net, dropping), RDropTraining)
    assert method.merge is not None and not METHODS["r_drop"].owning
    with pytest.raises(ConfigError, match="r_drop needs dropout"):
        method.attach(model(0.0), method.config(rank=2, target="first"), Sites(), 0)
