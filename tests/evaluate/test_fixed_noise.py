"""Fixed noise: the formula in numpy, its distribution, and that nothing but its key changes it."""

import numpy as np

from petrun.evaluate.fixed_noise import fixed_normal, fixed_uniform
from tests.models.diffusers_cases import drawn_noise


def test_normal_numbers_are_box_and_mullers_of_philox():
    found = fixed_normal((4, 8, 8), 5)
    np.testing.assert_array_equal(found, drawn_noise(5, (4, 8, 8)))
    assert found.dtype == np.float32
    others = fixed_normal((4, 8, 8), 6), fixed_normal((4, 8, 8), 5, 1)
    assert not any(np.isclose(found, other).any() for other in others)


def test_distribution():
    normal, uniform = fixed_normal((100_000,), 2**63, 7), fixed_uniform((100_000,), 0)
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01 and np.isfinite(normal).all()
    assert uniform.min() > 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
