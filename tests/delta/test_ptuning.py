"""P-tuning's encoders against numpy, in both modes, and one direction of the LSTM against its definition."""

import numpy as np
import pytest
from mindspore import Tensor, ops, value_and_grad

from petrun.delta import METHODS
from petrun.delta.ptuning import Lstm, LstmEncoder, MlpEncoder, PtuningConfig


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def values(cell):
    return {path: p.asnumpy().astype(np.float64) for path, p in cell.parameters_and_names()}


def affine(w, path, x):
    return x @ w[f"{path}.weight"].T + w[f"{path}.bias"]


def lstm(w, path, x, backward):
    """Gates in the order input, forget, cell, output; state 0 before the first step."""
    middle = w[f"{path}state.weight"].shape[1]
    h = c = np.zeros(middle)
    out = np.zeros((len(x), middle))
    for t in reversed(range(len(x))) if backward else range(len(x)):
        i, f, g, o = np.split(affine(w, f"{path}input", x[t]) + affine(w, f"{path}state", h), 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out[t] = h
    return out


@pytest.mark.parametrize("backward", [False, True])
def test_one_direction(mode, backward):
    cell = Lstm(3, 4, backward, 0, "x")
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        cell(Tensor(x)).asnumpy(), lstm(values(cell), "", x.astype(np.float64), backward), rtol=1e-5, atol=1e-6
    )


def test_mlp_encoder(mode):
    cell = MlpEncoder(4, 6, 5, 2)
    w = values(cell)
    hidden = relu(affine(w, "second", relu(affine(w, "first", w["embedding.table"]))))
    np.testing.assert_allclose(cell().asnumpy(), affine(w, "last", hidden), rtol=1e-5, atol=1e-6)


def test_lstm_encoder(mode):
    cell = LstmEncoder(4, 6, 5, 0.0, 2)
    w = values(cell)
    x = w["embedding.table"]
    for layer in ("1", "2"):
        x = np.concatenate([lstm(w, f"{d}_{layer}.", x, d == "backward") for d in ("forward", "backward")], 1)
    expected = affine(w, "last", relu(affine(w, "first", x)))
    np.testing.assert_allclose(cell().asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_every_parameter_of_the_encoders_gets_a_gradient(pynative):
    for cell in (MlpEncoder(3, 6, 5, 0), LstmEncoder(3, 6, 5, 0.0, 0)):
        parameters = cell.trainable_params()
        _, grads = value_and_grad(lambda c=cell: ops.square(c()).sum(), None, parameters)()
        for p, g in zip(parameters, grads, strict=True):
            assert np.abs(g.asnumpy()).max() > 0, p.name


def test_the_record():
    assert METHODS["ptuning"].tokens(PtuningConfig(tokens=9)) == 9
    assert METHODS["ptuning"].merge is None
