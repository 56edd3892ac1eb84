"""PrefixLayer against numpy, and what MindPet's does not do: train, give values of their own, keep examples apart."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import PrefixLayer
from petrun.errors import TrainingError
from petrun.kernels import step_counter
from tests.mindpet.numbers import numbers

MARK = "mindpet_delta_prefixtuning"
SETTINGS = {"prefix_token_num": 4, "batch_size": 2, "num_heads": 2, "hidden_dim": 6, "embed_dim": 5, "mid_dim": 7}


def filled(**settings):
    """A layer, and keys and values (P, H) by the formula."""
    cell = PrefixLayer(**{**SETTINGS, **settings})
    for i, (name, p) in enumerate(cell.parameters_and_names()):
        if name != "input_tokens":
            p.set_data(Tensor(numbers(p.shape, i, 0.5)))
    v = {name: p.asnumpy() for name, p in cell.parameters_and_names()}
    table = v[f"{MARK}_wte.embedding_table"]
    middle = np.tanh(table @ v[f"{MARK}_control_trans.0.weight"].T + v[f"{MARK}_control_trans.0.bias"])
    keys = middle @ v[f"{MARK}_control_trans.2.weight"].T + v[f"{MARK}_control_trans.2.bias"]
    values = middle @ v[f"{MARK}_value_trans.weight"].T + v[f"{MARK}_value_trans.bias"]
    return cell, keys, values


def by_head(flat):
    """(P, H) -> (N, P, D)"""
    return flat.reshape(4, 2, 3).transpose(1, 0, 2)


def test_keys_and_values_are_the_formula_for_every_example(mode):
    cell, keys, values = filled()
    for rows, got in ((2, cell()), (3, cell(3))):
        assert [part.shape for part in got] == [(rows, 2, 4, 3)] * 2
        for part, expected in zip(got, (keys, values), strict=True):
            for example in part.asnumpy():
                np.testing.assert_allclose(example, by_head(expected), rtol=1e-5, atol=1e-5)


def test_attributes_are_keys_and_values():
    """D1: MindPet's value is its key."""
    cell, keys, values = filled()
    np.testing.assert_allclose(cell.past_key_reparam.asnumpy(), keys, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cell.past_value_reparam.asnumpy(), values, rtol=1e-5, atol=1e-5)
    assert np.abs(cell.past_key_reparam.asnumpy() - cell.past_value_reparam.asnumpy()).max() > 0.1


class Attributes(nn.Cell):
    """Reads the attributes in its construct, as code written for MindPet does."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix

    def construct(self, x):
        return (self.prefix.past_key_reparam * x).sum() + (self.prefix.past_value_reparam * x * x).sum()


class ReadInInit(nn.Cell):
    """MindPet's manual, section 2.3."""

    def __init__(self, prefix, attribute):
        super().__init__()
        self.prefix = prefix
        self.past = self.read(attribute)

    def read(self, attribute):
        return getattr(self.prefix, attribute)

    def construct(self, x):
        return (self.past * x).sum()


@pytest.mark.parametrize("attribute", ["past_key_reparam", "past_value_reparam"])
def test_reading_them_where_a_model_is_built_is_refused(mode, attribute):
    """They would be constants: MindPet, and petrun before, then trained nothing without a word."""
    with pytest.raises(TrainingError, match=r"ReadInInit\.__init__ reads are constants") as caught:
        ReadInInit(filled()[0], attribute)
    assert "in construct" in caught.value.hint


class BuiltWithACall(nn.Cell):
    """Calls its net while it is built, as a trainer that wants shapes may do."""

    def __init__(self, net):
        super().__init__()
        self.first = net(Tensor(2.0, ms.float32))


def test_a_construct_may_read_them_while_another_cell_is_built(mode):
    assert np.isfinite(BuiltWithACall(Attributes(filled()[0])).first.asnumpy())


class Called(nn.Cell):
    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix

    def construct(self, x):
        keys, values = self.prefix(3)
        return (keys * x).sum() + (values * x * x).sum()


@pytest.mark.parametrize("reader", [Called, Attributes])
def test_every_parameter_gets_a_gradient(mode, reader):
    """D1: MindPet's are computed once in __init__: no gradient, and a loss that never moves."""
    net = reader(filled()[0])
    weights = net.trainable_params()
    assert len(weights) == 7
    _, gradients = ms.value_and_grad(net, None, weights)(Tensor(2.0, ms.float32))
    assert all(np.abs(g.asnumpy()).max() > 0 for g in gradients)


def test_training_moves_them_and_the_attributes_follow():
    prefix = PrefixLayer(**SETTINGS)
    net = Called(prefix)
    before = prefix.past_value_reparam.asnumpy()
    step = nn.TrainOneStepCell(net, nn.SGD(net.trainable_params(), 0.01))
    losses = [float(step(Tensor(1.0, ms.float32)).asnumpy()) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    assert np.abs(prefix.past_value_reparam.asnumpy() - before).max() > 0


class OneHead(nn.Cell):
    """Attention with a prefix: softmax(q [P; k]^T) [P; v]."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix

    def construct(self, q, k, v):
        keys, values = self.prefix(q.shape[0])
        scores = ops.matmul(q, ops.transpose(ops.concat((keys, k), 2), (0, 1, 3, 2)))
        return ops.matmul(ops.softmax(scores, -1), ops.concat((values, v), 2))


def test_no_example_sees_another(mode):
    """D2: MindPet's recipe joins (N, hidden) to (B * S, hidden) on axis 0, which moves tokens into the next example."""
    net = OneHead(filled()[0])
    q, k, v = (numbers((3, 2, 5, 3), seed) for seed in (1, 2, 3))
    together = net(Tensor(q), Tensor(k), Tensor(v)).asnumpy()
    for row in range(3):
        alone = net(*(Tensor(part[row : row + 1]) for part in (q, k, v))).asnumpy()
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)


def test_names_shapes_and_what_is_frozen():
    cell = PrefixLayer(**SETTINGS)
    assert {p.name: (p.shape, p.requires_grad) for p in cell.get_parameters()} == {
        f"{MARK}_input_tokens": ((4,), False),
        f"{MARK}_wte.embedding_table": ((4, 5), True),
        f"{MARK}_control_trans.0.weight": ((7, 5), True),
        f"{MARK}_control_trans.0.bias": ((7,), True),
        f"{MARK}_control_trans.2.weight": ((6, 7), True),
        f"{MARK}_control_trans.2.bias": ((6,), True),
        f"{MARK}_value_trans.weight": ((6, 7), True),
        f"{MARK}_value_trans.bias": ((6,), True),
    }
    np.testing.assert_array_equal(cell.input_tokens.asnumpy(), [0, 1, 2, 3])
    assert cell.input_tokens.dtype == ms.int32 and cell.prefix_token_num == 4 and cell.batch_size == 2


def test_dropout_is_for_training_and_repeatable(mode):
    cell, keys, values = filled(dropout_rate=0.5)
    np.testing.assert_allclose(cell()[0].asnumpy()[0], by_head(keys), rtol=1e-5, atol=1e-5)
    cell.set_train()
    # A cell that was called keeps its graph, with what it was then.
    cell.compile_cache.clear()
    step_counter().set_data(Tensor(3, ms.int32))
    first, again = cell(), cell()
    step_counter().set_data(Tensor(4, ms.int32))
    later = cell()
    for one, two, three, expected in zip(first, again, later, (keys, values), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), two.asnumpy())
        assert np.any(one.asnumpy() != three.asnumpy())
        kept = one.asnumpy()[0] != 0
        np.testing.assert_allclose(one.asnumpy()[0][kept], 2 * by_head(expected)[kept], rtol=1e-5, atol=1e-5)
        assert 0.1 < kept.mean() < 0.9
    assert np.any((first[0].asnumpy() != 0) != (first[1].asnumpy() != 0))
    step_counter().set_data(Tensor(0, ms.int32))


@pytest.mark.parametrize("name", ["prefix_token_num", "batch_size", "num_heads", "hidden_dim", "embed_dim", "mid_dim"])
def test_documented_exceptions(name):
    for wrong, error in ((10.0, TypeError), ("a", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)):
        with pytest.raises(error, match=name):
            PrefixLayer(**{**SETTINGS, name: wrong})


def test_documented_exceptions_of_the_rest():
    for wrong, error in ((-0.1, ValueError), (1.0, ValueError), (0, TypeError), ("a", TypeError)):
        with pytest.raises(error, match="dropout_rate"):
            PrefixLayer(**SETTINGS, dropout_rate=wrong)
    with pytest.raises(ValueError, match="prefix_token_num 5 must be a multiple of batch_size 2"):
        PrefixLayer(**{**SETTINGS, "prefix_token_num": 5})
    with pytest.raises(ValueError, match="hidden_dim 6 must be a multiple of num_heads 4"):
        PrefixLayer(**{**SETTINGS, "num_heads": 4})
