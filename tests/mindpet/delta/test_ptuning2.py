"""PrefixEncoder against numpy, MindPet's names, exceptions and strategies."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.delta import PrefixEncoder
from petrun.delta.ptuning2 import PrefixEncoder as by_mindpets_path
from petrun.kernels import step_counter
from tests.mindpet.numbers import numbers, strategies

MARK = "mindpet_delta_ptuning2"
SETTINGS = {
    "pre_seq_len": 3,
    "num_layers": 2,
    "num_heads": 4,
    "kv_channels": 5,
    "prefix_projection": False,
    "projection_dim": 6,
    "dropout_prob": 0.0,
}


def filled(**settings):
    """An encoder, and (P, 2 layers, N, D) by the formula."""
    cell = PrefixEncoder(**{**SETTINGS, **settings})
    for i, p in enumerate(cell.trainable_params()):
        p.set_data(Tensor(numbers(p.shape, i, 0.3)))
    v = {name: p.asnumpy() for name, p in cell.parameters_and_names()}
    flat = v[f"{MARK}_embedding.embedding_table"]
    if cell.prefix_projection:
        flat = np.tanh(flat @ v[f"{MARK}_dense_in.weight"].T + v[f"{MARK}_dense_in.bias"])
        flat = flat @ v[f"{MARK}_dense_out.weight"].T + v[f"{MARK}_dense_out.bias"]
    return cell, flat.reshape(3, 4, 4, 5)


@pytest.mark.parametrize("projection", [False, True])
def test_every_layer_gets_its_keys_and_values(mode, projection):
    cell, expected = filled(prefix_projection=projection)
    layers = cell(2)
    assert len(layers) == 2
    for i, layer in enumerate(layers):
        assert layer.shape == (2, 2, 4, 3, 5) and layer.dtype == ms.float32
        for kind in range(2):
            for example in layer.asnumpy()[kind]:
                want = expected[:, 2 * i + kind].transpose(1, 0, 2)
                np.testing.assert_allclose(example, want, rtol=1e-5, atol=1e-5)


def test_other_type_and_order():
    cell, expected = filled(out_perm=(2, 1, 0, 3, 4))
    layers = cell(2, ms.float16)
    assert layers[0].dtype == ms.float16 and layers[0].shape == (2, 3, 2, 4, 5)
    np.testing.assert_allclose(layers[1].asnumpy()[0, :, 1], expected[:, 2], rtol=2e-3, atol=2e-3)


class Summed(nn.Cell):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def construct(self, x):
        total = 0.0
        for layer in self.encoder(2):
            total = total + (layer * layer * x).sum()
        return total


def test_every_parameter_gets_a_gradient(mode):
    net = Summed(filled(prefix_projection=True)[0])
    weights = net.trainable_params()
    assert len(weights) == 5
    _, gradients = ms.value_and_grad(net, None, weights)(Tensor(1.0, ms.float32))
    assert all(np.abs(g.asnumpy()).max() > 0 for g in gradients)


@pytest.mark.parametrize("projection", [False, True])
def test_names_shapes_and_what_is_frozen(projection):
    cell = PrefixEncoder(**{**SETTINGS, "prefix_projection": projection})
    dense = {
        f"{MARK}_dense_in.weight": ((6, 80), True),
        f"{MARK}_dense_in.bias": ((6,), True),
        f"{MARK}_dense_out.weight": ((80, 6), True),
        f"{MARK}_dense_out.bias": ((80,), True),
    }
    assert {p.name: (p.shape, p.requires_grad) for p in cell.get_parameters()} == {
        f"{MARK}_prefix": ((3,), False),
        f"{MARK}_embedding.embedding_table": ((3, 80), True),
        **(dense if projection else {}),
    }
    assert cell.mindpet_delta_ptuning2_prefix.dtype == ms.int64
    assert by_mindpets_path is PrefixEncoder


def test_dropout_is_for_training_and_repeatable():
    cell, _ = filled(dropout_prob=0.5)
    whole = cell(2)[0].asnumpy()
    assert (whole != 0).all()
    cell.set_train()
    # A cell that was called keeps its graph, with what it was then.
    cell.compile_cache.clear()
    step_counter().set_data(Tensor(1, ms.int32))
    once, twice = cell(2)[0].asnumpy(), cell(2)[0].asnumpy()
    step_counter().set_data(Tensor(0, ms.int32))
    np.testing.assert_array_equal(once, twice)
    assert 0.3 < (once != 0).mean() < 0.7
    np.testing.assert_allclose(once[once != 0], 2 * whole[once != 0], rtol=1e-5)


def test_shard_reaches_every_operator():
    parallel = SimpleNamespace(data_parallel=2, model_parallel=3, vocab_emb_dp=False)
    cell = PrefixEncoder(**{**SETTINGS, "prefix_projection": True}, parallel_config=parallel)
    cell.shard(2, 3)
    assert strategies(cell) == {
        f"{MARK}_embedding.gather": ((3, 1), (2, 1)),
        "expand_dims": ((1,),),
        "tile": ((1, 1),),
        f"{MARK}_dense_in.matmul": ((2, 1), (3, 1)),
        f"{MARK}_dense_in.bias_add": ((2, 1), (1,)),
        f"{MARK}_tanh.tanh": ((2, 1, 1),),
        f"{MARK}_dense_out.matmul": ((2, 1), (3, 1)),
        f"{MARK}_dense_out.bias_add": ((2, 1), (1,)),
        "cast": ((2, 1, 1),),
        "dropout.dropout": ((2, 1, 1, 1, 1), (2, 1, 1, 1, 1)),
        "transpose": ((2, 1, 1, 1, 1),),
        "split_layers": ((1, 2, 1, 1, 1),),
    }


def test_the_table_is_split_as_the_configuration_says():
    whole = PrefixEncoder(**SETTINGS)
    assert whole.mindpet_delta_ptuning2_embedding.gather.in_strategy == ((1, 1), (1, 1))
    by_rows = SimpleNamespace(data_parallel=4, model_parallel=2, vocab_emb_dp=True)
    over_batch = PrefixEncoder(**SETTINGS, parallel_config=by_rows)
    assert over_batch.mindpet_delta_ptuning2_embedding.gather.in_strategy == ((1, 1), (4, 1))
    by_rows.vocab_emb_dp = False
    with pytest.raises(ValueError, match="pre_seq_len 3 must be a multiple of model_parallel 2"):
        PrefixEncoder(**SETTINGS, parallel_config=by_rows)
    for name in ("data_parallel", "model_parallel"):
        for wrong, error in ((0, ValueError), (1.0, TypeError)):
            config = SimpleNamespace(**{"data_parallel": 1, "model_parallel": 1, "vocab_emb_dp": True, name: wrong})
            with pytest.raises(error, match=name):
                PrefixEncoder(**SETTINGS, parallel_config=config)


@pytest.mark.parametrize("name", ["pre_seq_len", "num_layers", "num_heads", "kv_channels", "projection_dim"])
def test_documented_exceptions(name):
    settings = {**SETTINGS, "prefix_projection": True}
    for wrong, error in ((10.0, TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)):
        with pytest.raises(error, match=name):
            PrefixEncoder(**{**settings, name: wrong})


def test_documented_exceptions_of_the_rest():
    for wrong, error in ((-0.1, ValueError), (1.0, ValueError), (0, TypeError)):
        with pytest.raises(error, match="dropout_prob"):
            PrefixEncoder(**{**SETTINGS, "dropout_prob": wrong})
    # Without the projection its width is not looked at.
    assert len(PrefixEncoder(**{**SETTINGS, "projection_dim": -1})(1)) == 2
