"""Which device holds which piece, against plain numpy and numbers written by hand."""

import numpy as np
import pytest

from petrun.tensors import Layout
from tests.shards import piece_of

WHOLE = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)


@pytest.mark.parametrize(
    "layout",
    [
        Layout.of((2, 4), (0, -1)),
        Layout.of((2, 4), (-1, 0)),
        Layout.of((2, 4), (1, 0)),
        Layout.of((2, 4), (0, 1)),
        Layout.of((2, 4), (0, -1), opt_size=-1),
        Layout.of((4, 2), (0, -1), opt_size=2),
        Layout.of((8,), (-1, -1), opt_size=-1),
        Layout.of((8,), (-1, -1), opt_size=4),
        Layout.of((2, 2, 2), (-1, 1), opt_size=-1),
        Layout.of((2, 2, 2), (-1, 1), opt_size=2),
        Layout(devices=(2, 2, 2), axes=((1, 0), ())),
        Layout(devices=(2, 2, 2), axes=((0, 2), (1,))),
        Layout(devices=(2, 2, 2), axes=((1, 0), ()), opt_size=-1, opt_step=4),
        Layout.of((1, 1), (0, -1)),
        Layout.whole(4, 2),
    ],
)
def test_pieces_are_numpys(layout):
    assert not layout.problem()
    shape = layout.piece_shape(WHOLE.shape)
    assert layout.whole_shape(shape) == WHOLE.shape
    covered = np.zeros(WHOLE.shape, int)
    for device in range(layout.count):
        want = piece_of(WHOLE, device, layout)
        assert want.shape == shape
        np.testing.assert_array_equal(WHOLE[layout.place(device, shape)], want)
    for holders in layout.holders().values():
        covered[layout.place(holders[0], shape)] += 1
        assert len({piece_of(WHOLE, device, layout).tobytes() for device in holders}) == 1
    assert (covered == 1).all()


def test_what_the_compiler_writes_and_cuts():
    """Rank 5 of (2, 2, 2), a split by sp and mp together: rows 16 to 31 of 64 as MindSpore's Ascend front end cut it; its steps."""
    a = Layout(devices=(2, 2, 2), axes=((1, 0), ()))
    assert a.place(5, (16, 64)) == (slice(16, 32), slice(0, 64))
    assert Layout.of((2, 2, 2), (-1, 1), opt_size=-1).opt_step == 1
    assert Layout.of((2, 4), (0, -1), opt_size=-1).opt_step == 4
    assert Layout.of((2, 4), (-1,), opt_size=-1).opt_step == 1


def test_scalars():
    layout = Layout.of((8,), ())
    assert layout.parts == () and layout.place(3, ()) == () and layout.piece_shape(()) == ()


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(devices=(2, 4), axes=((2,), ())), "names axis 2"),
        (Layout(devices=(2, 4), axes=((-1, 0), ())), "names axis -1"),
        (Layout(devices=(2, 4), axes=((0,), (0,))), "uses an axis twice"),
        (Layout(devices=(2, 0), axes=((0,),)), "size below 1"),
        (Layout(devices=(1 << 11, 1 << 11), axes=()), "more than"),
        (Layout(devices=(8,), axes=(), opt_size=-1), "cuts a scalar"),
        (Layout(devices=(8,), axes=((),), opt_size=3), "among 3 of 8 replicas"),
        (Layout(devices=(2, 4), axes=((0,),), opt_size=-2), "among -2 of 2"),
        (
            Layout(devices=(2, 4), axes=((0,),), opt_size=-1, opt_step=1),
            "opt_weight_shard_step is 1, its replicas are 4 apart",
        ),
    ],
)
def test_contradictions(layout, said):
    assert said in layout.problem()


def test_shapes_that_do_not_divide():
    with pytest.raises(ValueError, match="dimension 1, 6, does not divide by 4"):
        Layout.of((2, 4), (-1, 0)).piece_shape((3, 6))
    with pytest.raises(ValueError, match="2 dimensions and has 1"):
        Layout.of((2, 4), (-1, 0)).piece_shape((3,))
