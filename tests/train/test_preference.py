"""Losses on pairs of answers, against trl's values and gradients, and against the formulas in float64."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from petrun.train.preference import PREFERENCE_LOSSES, PreferenceLoss, PreferenceSettings

ON_PAIRS = [name for name, kind in PREFERENCE_LOSSES.items() if not kind.unpaired]
TRL = json.loads((Path(__file__).parent / "preference_trl.json").read_text())


def tensors(*arrays):
    return [Tensor(np.array(array, np.float32)) for array in arrays]


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def slope(cell, log_probs, counts, base):
    """Gradient of the sum of a cell's values by the log-probabilities."""

    def total(given):
        return cell(given, counts, base).sum()

    return ms.grad(total)(log_probs).asnumpy()


@pytest.mark.parametrize("name", TRL["losses"])
def test_values_and_gradients_are_those_of_trl(mode, name):
    wanted = TRL["losses"][name]
    cell = PREFERENCE_LOSSES[name].cell(PreferenceSettings(**wanted["settings"]))
    log_probs, counts, base = tensors(TRL["log_probs"], TRL["counts"], TRL["base"])
    values = cell(log_probs, counts, base).asnumpy()
    gradient = slope(cell, log_probs, counts, base)
    np.testing.assert_allclose(values, wanted["values"], rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted["gradient"], rtol=1e-4, atol=1e-6)


def test_label_smoothing_weighs_the_swapped_answers(mode):
    log_probs, base = (np.array(TRL[name]) for name in ("log_probs", "base"))
    gains = log_probs - base
    h = 0.3 * (gains[:, 0] - gains[:, 1])
    wanted = -0.8 * log_sigmoid(h) - 0.2 * log_sigmoid(-h)
    cell = PREFERENCE_LOSSES["dpo"].cell(PreferenceSettings(beta=0.3, label_smoothing=0.2))
    found = cell(*tensors(log_probs, TRL["counts"], base)).asnumpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ON_PAIRS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
def test_values_and_gradients_are_finite_for_certain_and_for_impossible_answers(graph_mode, name, scale):
    cell = PREFERENCE_LOSSES[name].cell(PreferenceSettings(beta=0.1, gamma=0.5))
    log_probs, counts, base = tensors([[-scale, -2.0], [-2.0, -scale]], [[2, 2], [2, 2]], [[-1, -1], [-1, -1]])
    assert np.isfinite(cell(log_probs, counts, base).asnumpy()).all()
    assert np.isfinite(slope(cell, log_probs, counts, base)).all()


class Table(nn.Cell):
    """Logits (B, T, V) that depend on the token alone. Inputs: input_ids and segment_ids (B, T) int32."""

    def __init__(self, logits):
        super().__init__()
        self.table = Parameter(Tensor(logits, ms.float32), name="table")

    def construct(self, input_ids, segment_ids):
        return ops.gather(self.table, input_ids, 0)


def pairs():
    """(table, ids, segments, targets): three rows of two sequences; the third lost its rejected answer."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 6, (3, 7)).astype(np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 0, 0]], np.int32)
    targets = np.full((3, 7), -100, np.int32)
    for b, places in enumerate([(1, 4), (1, 2, 4, 5), (0, 1)]):
        for t in places:
            targets[b, t] = rng.integers(0, 6)
    return rng.normal(size=(6, 6)), ids, segments, targets


@pytest.mark.parametrize("name", ON_PAIRS)
def test_the_loss_of_a_net(mode, name):
    """Sums over the answers' tokens, the loss of each complete row, and cross entropy beside it, in float64."""
    table, ids, segments, targets = pairs()
    base = np.array([[-1.5, -2.0], [-4.0, -3.0], [-1.0, 0.0]])
    shifted = table - np.log(np.exp(table).sum(1, keepdims=True))
    wanted = 0.0
    for b in range(2):
        sums, counts = np.zeros(2), np.zeros(2)
        for t in np.flatnonzero(targets[b] != -100):
            sums[segments[b, t] - 1] += shifted[ids[b, t], targets[b, t]]
            counts[segments[b, t] - 1] += 1
        wanted += formula(name, sums, counts, base[b]) - 0.25 * sums[0] / counts[0]
    kind = PREFERENCE_LOSSES[name]
    settings = PreferenceSettings(beta=0.5, gamma=0.3, sft_weight=0.25)
    loss = PreferenceLoss(Table(table), kind, settings, segments=1)
    given = [Tensor(base, ms.float32)] if kind.needs_base else []
    value, logits = loss(Tensor(2.0, ms.float32), Tensor(targets), *given, Tensor(ids), Tensor(segments))
    np.testing.assert_allclose(value.asnumpy(), wanted / 2, rtol=1e-5)
    assert logits.shape == (3, 7, 6)


def formula(name, sums, counts, base):
    """One row's loss with beta 0.5 and gamma 0.3."""
    means = sums / counts
    if name == "dpo":
        return -log_sigmoid(0.5 * ((sums - base)[0] - (sums - base)[1]))
    if name == "ipo":
        gains = (sums - base) / counts
        return (gains[0] - gains[1] - 1.0) ** 2
    if name == "simpo":
        return -log_sigmoid(0.5 * (means[0] - means[1]) - 0.3)
    odds = means - np.log1p(-np.exp(means))
    return -means[0] - 0.5 * log_sigmoid(odds[0] - odds[1])


def test_a_batch_without_targets_gives_no_loss_and_no_gradient(graph_mode):
    """A rank whose share of a batch is empty takes the step as well."""
    table, ids, segments, targets = pairs()
    loss = PreferenceLoss(Table(table), PREFERENCE_LOSSES["orpo"], PreferenceSettings(beta=0.1), segments=1)
    parameters = tuple(loss.net.trainable_params())

    def total(*given):
        return loss(*given)[0]

    step = ms.value_and_grad(total, None, parameters)
    nothing = Tensor(np.full_like(targets, -100))
    value, (gradient,) = step(Tensor(1.0, ms.float32), nothing, Tensor(ids), Tensor(segments))
    assert float(value) == 0.0 and not gradient.asnumpy().any()
