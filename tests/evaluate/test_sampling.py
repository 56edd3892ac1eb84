"""Tokens from logits, against the rules written out."""

import numpy as np
import pytest

from petrun.evaluate.sampling import Sampling, penalised

LOGITS = np.array([2.0, -1.0, 0.5, 1.9, -3.0, 0.0], np.float32)


def by_hand(logits, before, penalty):
    """transformers' RepetitionPenaltyLogitsProcessor, a token at a time."""
    found = [float(z) for z in logits]
    for token in set(before):
        found[token] = found[token] * penalty if found[token] < 0 else found[token] / penalty
    return found


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.5])
def test_penalty_is_that_of_transformers(penalty):
    before = [0, 1, 1, 5, 0]
    assert penalised(LOGITS, before, penalty) == pytest.approx(by_hand(LOGITS, before, penalty), abs=1e-6)
    assert LOGITS[0] == 2.0, "the logits that were given changed"


def test_temperature_zero_takes_the_likeliest_after_the_penalty():
    stream = np.random.default_rng(0)
    assert Sampling(temperature=0).greedy and Sampling(temperature=0).take(LOGITS, stream, [0]) == 0
    penal = Sampling(temperature=0, repetition_penalty=1.2)
    assert not penal.greedy
    assert penal.take(LOGITS, stream, []) == 0 and penal.take(LOGITS, stream, [0]) == 3
    # A negative logit is pushed further down, not up.
    assert penal.take(np.array([-1.0, -1.1], np.float32), stream, [0]) == 1


def test_drawing_comes_after_the_penalty():
    drawn = Sampling(temperature=1.0, repetition_penalty=2.0)
    stream = drawn.stream(3)
    shares = np.bincount([drawn.take(LOGITS, stream, [0, 4]) for _ in range(4000)], minlength=6) / 4000
    weights = np.exp(by_hand(LOGITS, [0, 4], 2.0))
    assert shares == pytest.approx(weights / weights.sum(), abs=0.03)
    assert [drawn.take(LOGITS, drawn.stream(3), []) for _ in range(3)] == [drawn.take(LOGITS, drawn.stream(3), [])] * 3
