"""Which device holds which shard, against plain numpy and numbers written by hand."""

import numpy as np
import pytest

from petrun.tensors import TensorLayout
from tests.shards import shard_of

WHOLE = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)


@pytest.mark.parametrize(
    "layout",
    [
        TensorLayout.of((2, 4), (0, -1)),
        TensorLayout.of((2, 4), (-1, 0)),
        TensorLayout.of((2, 4), (1, 0)),
        TensorLayout.of((2, 4), (0, 1)),
        TensorLayout.of((2, 4), (0, -1), opt_size=-1),
        TensorLayout.of((4, 2), (0, -1), opt_size=2),
        TensorLayout.of((8,), (-1, -1), opt_size=-1),
        TensorLayout.of((8,), (-1, -1), opt_size=4),
        TensorLayout.of((2, 2, 2), (-1, 1), opt_size=-1),
        TensorLayout.of((2, 2, 2), (-1, 1), opt_size=2),
        TensorLayout(devices=(2, 2, 2), axes=((1, 0), ())),
        TensorLayout(devices=(2, 2, 2), axes=((0, 2), (1,))),
        TensorLayout(devices=(2, 2, 2), axes=((1, 0), ()), opt_size=-1, opt_step=4),
        TensorLayout.of((1, 1), (0, -1)),
        TensorLayout.replicated(4, 2),
    ],
)
def test_shards_are_numpys(layout):
    assert not layout.problem()
    shape = layout.shard_shape(WHOLE.shape)
    assert layout.full_shape(shape) == WHOLE.shape
    covered = np.zeros(WHOLE.shape, int)
    for device in range(layout.count):
        want = shard_of(WHOLE, device, layout)
        assert want.shape == shape
        np.testing.assert_array_equal(WHOLE[layout.slices(device, shape)], want)
    for holders in layout.holders().values():
        covered[layout.slices(holders[0], shape)] += 1
        assert len({shard_of(WHOLE, device, layout).tobytes() for device in holders}) == 1
    assert (covered == 1).all()


def test_what_the_compiler_writes_and_cuts():
    """Rank 5 of (2, 2, 2), a split by sp and mp together: rows 16 to 31 of 64 as MindSpore's Ascend front end cut it; its steps."""
    a = TensorLayout(devices=(2, 2, 2), axes=((1, 0), ()))
    assert a.slices(5, (16, 64)) == (slice(16, 32), slice(0, 64))
    assert TensorLayout.of((2, 2, 2), (-1, 1), opt_size=-1).opt_step == 1
    assert TensorLayout.of((2, 4), (0, -1), opt_size=-1).opt_step == 4
    assert TensorLayout.of((2, 4), (-1,), opt_size=-1).opt_step == 1


def test_scalars():
    layout = TensorLayout.of((8,), ())
    assert layout.splits == () and layout.slices(3, ()) == () and layout.shard_shape(()) == ()


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (TensorLayout(devices=(2, 4), axes=((2,), ())), "names axis 2"),
        (TensorLayout(devices=(2, 4), axes=((-1, 0), ())), "names axis -1"),
        (TensorLayout(devices=(2, 4), axes=((0,), (0,))), "uses an axis twice"),
        (TensorLayout(devices=(2, 0), axes=((0,),)), "size below 1"),
        (TensorLayout(devices=(1 << 11, 1 << 11), axes=()), "more than"),
        (TensorLayout(devices=(8,), axes=(), opt_size=-1), "shards a scalar"),
        (TensorLayout(devices=(8,), axes=((),), opt_size=3), "among 3 of 8 replicas"),
        (TensorLayout(devices=(2, 4), axes=((0,),), opt_size=-2), "among -2 of 2"),
        (
            TensorLayout(devices=(2, 4), axes=((0,),), opt_size=-1, opt_step=1),
            "opt_weight_shard_step is 1, its replicas are 4 apart",
        ),
    ],
)
def test_contradictions(layout, said):
    assert said in layout.problem()


def test_shapes_that_do_not_divide():
    with pytest.raises(ValueError, match="dimension 1, 6, does not divide by 4"):
        TensorLayout.of((2, 4), (-1, 0)).shard_shape((3, 6))
    with pytest.raises(ValueError, match="2 dimensions and has 1"):
        TensorLayout.of((2, 4), (-1, 0)).shard_shape((3,))
