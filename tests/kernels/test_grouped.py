"""Products with a matrix of a stack for each row against numpy, forward and backward, and that no row depends on the others."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from petrun.kernels import GroupedProduct, native, primitives_only
from tests.kernels.conftest import close, normal, run


class Stack(nn.Cell):
    """The product with a stack that trains, of rows that chose `chosen`."""

    def __init__(self, stack, chosen):
        super().__init__()
        self.weight, self.chosen, self.product = (
            Parameter(Tensor(stack), name="weight"),
            Tensor(chosen),
            GroupedProduct(),
        )

    def construct(self, x):
        return self.product(x, self.weight, self.chosen)


@pytest.mark.parametrize(
    ("rows", "share", "matrices", "width", "wide"),
    [(40, 2, 4, 48, 32), (150, 2, 3, 130, 70), (9, 1, 5, 7, 5), (3, 4, 64, 16, 24)],
    ids=["few", "many", "odd", "most-unchosen"],
)
def test_product_and_gradients(mode, fused, rows, share, matrices, width, wide):
    x, stack = normal(rows, width), normal(matrices, wide, width, seed=1)
    chosen = np.random.default_rng(2).integers(0, matrices, rows * share).astype(np.int32)
    chosen[chosen == 1] = 0
    pull = normal(rows * share, wide, seed=3)
    y, (dx,), (dw,) = run(Stack(stack, chosen), [x], pull, [0])
    repeated = np.repeat(x, share, 0)
    close(y, np.einsum("mk,mnk->mn", repeated, stack[chosen]))
    close(dx, np.einsum("mn,mnk->mk", pull, stack[chosen]).reshape(rows, share, width).sum(1))
    expected = np.zeros_like(stack)
    np.add.at(expected, chosen, pull[:, :, None] * repeated[:, None, :])
    close(dw, expected)
    assert not dw[1].any()


@pytest.mark.parametrize("rows", [16, 300])
def test_a_row_does_not_depend_on_what_the_others_chose(pynative, fused, rows):
    x, stack = normal(rows, 64), normal(4, 48, 64, seed=1)
    rng = np.random.default_rng(2)
    first, second = (rng.integers(0, 4, rows).astype(np.int32) for _ in range(2))
    second[0] = first[0]
    a, b = (Stack(stack, chosen)(Tensor(x)).asnumpy() for chosen in (first, second))
    assert np.array_equal(a[0], b[0])


def test_all_matrices_by_primitives(pynative):
    with primitives_only():
        product = GroupedProduct()
    assert not product.is_fused
    x, stack = normal(6, 8), normal(3, 5, 8, seed=1)
    close(product.every(Tensor(x), Tensor(stack)).asnumpy(), np.einsum("rk,enk->ren", x, stack).reshape(6, 15))
    own = normal(3, 6, 8, seed=4)
    close(product.each(Tensor(own), Tensor(stack)).asnumpy(), np.einsum("erk,enk->ern", own, stack))


def test_an_index_beyond_the_stack_is_refused(fused):
    from tests.kernels.direct import Library

    library = Library(native.library())
    inputs = [normal(2, 4), normal(3, 5, 4), np.array([0, 3], np.int32)]
    assert library.call("grouped_product", inputs, [(2, 5)])[0] == 2
