"""KTO's loss, against trl's value and gradients and against the formula in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from petrun.train.preference import PreferenceSettings
from petrun.train.unpaired import KahnemanTversky, UnpairedLoss

SETTINGS = PreferenceSettings(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
LOG_PROBS = np.array([[-0.9, -2.3], [-5.1, -0.7], [-4.0, -1.6], [-1.5, -8.5], [-10.7, -13.1]])
BASE = np.array([[-2.9, -7.5], [-3.7, -1.8], [-1.5, -4.0], [-0.6, -10.3], [-14.1, -12.9]])
LABELS = np.array([1, 0, 1, 0, 0], np.int32)


def formula(gains, labels, center, settings=SETTINGS):
    """(values, their gradient by the own answers' gains), float64, with z0 given."""
    sign = np.where(labels == 1, 1.0, -1.0)
    weight = np.where(labels == 1, settings.desirable_weight, settings.undesirable_weight)
    worth = 1 / (1 + np.exp(-settings.beta * sign * (gains[:, 0] - center)))
    return weight * (1 - worth), -weight * settings.beta * sign * worth * (1 - worth)


def test_the_mean_of_a_batch_and_its_gradients_are_those_of_trl(mode):
    """Numbers of KTOTrainer._compute_loss of trl 1.16.0 with torch 2.13.0, given these log-probabilities."""
    log_probs = [-0.91918588, -5.101346, -4.029686, -1.4577987, -10.724686]
    mismatched = [-2.2917702, -0.68086451, -1.5606978, -8.4932938, -13.054279]
    base = [-2.929641, -3.6733294, -1.5250616, -0.5634079, -14.138802]
    base_mismatched = [-7.4961796, -1.8044065, -3.9564316, -10.342646, -12.898275]
    gains = np.stack([np.subtract(log_probs, base), np.subtract(mismatched, base_mismatched)], 1)
    cell, labels, kept = KahnemanTversky(SETTINGS), Tensor(LABELS), Tensor(np.ones(5, bool))

    def mean(given):
        return cell(given, labels, kept).sum() / 5

    value, gradient = ms.value_and_grad(mean)(Tensor(gains, ms.float32))
    np.testing.assert_allclose(value.asnumpy(), 0.5059141516685486, rtol=1e-5)
    wanted = [
        -0.022497305646538734,
        0.005751311779022217,
        -0.014485434629023075,
        0.006182302255183458,
        0.007208941504359245,
    ]
    np.testing.assert_allclose(gradient.asnumpy()[:, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize("lowered", [0.0, 9.0])
def test_values_and_gradients_are_those_of_the_formula(mode, lowered):
    """Also where mismatched answers lost: z0 is 0 then. Nothing is learned from them."""
    gains = LOG_PROBS - BASE - np.array([0.0, lowered])
    complete = np.array([True, True, True, False, True])
    center = max(0.0, gains[complete, 1].mean())
    assert (center == 0) == bool(lowered), "the case is what it says"
    cell, labels, kept = KahnemanTversky(SETTINGS), Tensor(LABELS), Tensor(complete)

    def total(given):
        return cell(given, labels, kept).sum()

    given = Tensor(gains, ms.float32)
    values, slope = formula(gains, LABELS, center)
    np.testing.assert_allclose(cell(given, labels, kept).asnumpy(), values * complete, rtol=1e-5)
    gradient = ms.grad(total)(given).asnumpy()
    np.testing.assert_allclose(gradient[:, 0], slope * complete, rtol=1e-5)
    assert not gradient[:, 1].any()


def test_values_and_gradients_are_finite_for_certain_and_for_impossible_answers(graph_mode):
    cell, labels, kept = KahnemanTversky(SETTINGS), Tensor([1, 0, 1], ms.int32), Tensor([True, True, True])

    def total(given):
        return cell(given, labels, kept).sum()

    given = Tensor([[1e4, -1e4], [1e4, 1e4], [-1e4, 0.0]], ms.float32)
    assert np.isfinite(cell(given, labels, kept).asnumpy()).all()
    assert np.isfinite(ms.grad(total)(given).asnumpy()).all()


class Table(nn.Cell):
    """Logits (B, T, V) that depend on the token alone. Inputs: input_ids and segment_ids (B, T) int32."""

    def __init__(self, logits):
        super().__init__()
        self.table = Parameter(Tensor(logits, ms.float32), name="table")

    def construct(self, input_ids, segment_ids):
        return ops.gather(self.table, input_ids, 0)


def test_the_loss_of_a_net_and_its_gradient(mode):
    """Sums over each answer's tokens in float64; the gradient by differences with z0 held. A row that lost an answer counts nothing."""
    rng = np.random.default_rng(2)
    table, ids = rng.normal(size=(6, 6)), rng.integers(0, 6, (3, 7)).astype(np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 0, 0]], np.int32)
    targets = np.full((3, 7), -100, np.int32)
    for b, places in enumerate([(1, 4), (1, 2, 4, 5), (0, 1)]):
        targets[b, list(places)] = rng.integers(0, 6, len(places))
    base, labels = np.array([[-1.5, -9.0], [-4.0, -8.0], [-1.0, 0.0]]), np.array([1, 0, 1], np.int32)

    def gains_of(logits):
        shifted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        sums = np.zeros((2, 2))
        for b in range(2):
            for t in np.flatnonzero(targets[b] != -100):
                sums[b, segments[b, t] - 1] += shifted[ids[b, t], targets[b, t]]
        return sums - base[:2]

    center = max(0.0, gains_of(table)[:, 1].mean())
    assert center > 0

    def wanted(logits):
        return formula(gains_of(logits), labels[:2], center)[0].sum() / 2

    slopes = np.zeros_like(table)
    for place in np.ndindex(*table.shape):
        step = np.zeros_like(table)
        step[place] = 1e-5
        slopes[place] = (wanted(table + step) - wanted(table - step)) / 2e-5
    loss = UnpairedLoss(Table(table), KahnemanTversky(SETTINGS), segments=1)

    def total(*given):
        return loss(*given)[0]

    given = [
        Tensor(2.0, ms.float32),
        Tensor(targets),
        Tensor(base, ms.float32),
        Tensor(labels),
        Tensor(ids),
        Tensor(segments),
    ]
    value, (gradient,) = ms.value_and_grad(total, None, tuple(loss.net.trainable_params()))(*given)
    np.testing.assert_allclose(value.asnumpy(), wanted(table), rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), slopes, rtol=1e-4, atol=1e-6)
    # A rank whose share of a batch is empty takes the step as well.
    given[1] = Tensor(np.full_like(targets, -100))
    assert float(total(*given)) == 0.0
