"""Which targets count: -100 is no target among integers, and a number like any other among floats."""

import numpy as np

from petrun.tensors.targets import IGNORED, is_scored, unscored


def test_integers_and_floats_have_a_sentinel_each():
    assert is_scored(np.array([0, -100, 7], np.int32)).tolist() == [True, False, True]
    assert is_scored(np.array([-100.0, np.nan, 0.5], np.float32)).tolist() == [True, False, True]
    assert unscored(np.int32) == IGNORED == -100
    assert not is_scored(np.full(2, unscored(np.float32), np.float32)).any()
