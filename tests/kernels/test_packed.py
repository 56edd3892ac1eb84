"""Products with matrices in codes against numpy, forward and backward, and that no row depends on the others."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.graph.packed_weight import PackedDense, PackedWeight
from petrun.kernels import NestedScales
from petrun.models.parts import dense
from petrun.tensors.quantised import int8, nf4
from petrun.tensors.quantised.packed import PackedMatrix, two_in_a_byte
from tests.kernels.conftest import close, normal, run


def grouped(rows, width, bits):
    """Integers in groups of 8 with zeros, in another order of columns, as GPTQ has them."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (rows, width)).astype(np.uint8)
    return PackedMatrix(
        form=f"gptq-{bits}",
        shape=(rows, width),
        codes=two_in_a_byte(codes) if bits == 4 else codes.reshape(-1),
        table=np.arange(2**bits, dtype=np.float32),
        block=8,
        scales=rng.random(rows * width // 8).astype(np.float32),
        zeros=rng.integers(0, 2**bits, rows * width // 8).astype(np.float32),
        order=rng.permutation(width).astype(np.int32),
    )


MATRICES = {
    "int8": lambda: int8.quantised(normal(70, 300, seed=1)),
    "nf4": lambda: nf4.quantised(normal(66, 128, seed=2)),
    # Blocks of 64 that cross rows, an odd width, and a last block that is shorter.
    "nf4-across": lambda: nf4.quantised(normal(21, 45, seed=3)),
    "gptq-4": lambda: grouped(24, 48, 4),
    "gptq-8": lambda: grouped(24, 48, 8),
}


@pytest.mark.parametrize("name", MATRICES)
def test_product_and_gradient(mode, implementation, name):
    matrix = MATRICES[name]()
    (rows, width), w = matrix.shape, matrix.dequantised()
    x, pull = normal(40, width), normal(40, rows, seed=5)
    layer = PackedWeight(matrix.layout, ms.float32, matrix)
    y, (dx,), _ = run(layer, [x], pull, [0])
    close(y, x @ w.T)
    close(dx, pull @ w)
    assert np.array_equal(layer.matrix().asnumpy(), w if matrix.order is None else w[:, matrix.order])


@pytest.mark.parametrize("name", MATRICES)
def test_a_row_does_not_depend_on_the_others(pynative, fused, name):
    matrix = MATRICES[name]()
    layer = PackedWeight(matrix.layout, ms.float32, matrix)
    x = normal(32, matrix.shape[1])
    found = layer(Tensor(x)).asnumpy()
    alone = [layer(Tensor(x[i : i + 1])).asnumpy()[0] for i in range(len(x))]
    assert np.array_equal(found, alone)
    close(found, x @ matrix.dequantised().T)


def test_the_linear_layer_keeps_its_bias(pynative):
    plain = dense(48, 24, ms.float32, True)
    plain.bias.set_data(Tensor(normal(24)))
    matrix = int8.quantised(normal(24, 48, seed=1))
    layer = PackedDense(plain, matrix.layout)
    assert isinstance(layer, nn.Dense) and layer.bias is plain.bias
    layer.packed.fill(matrix)
    x = normal(2, 3, 48)
    close(layer(Tensor(x)).asnumpy(), x @ matrix.dequantised().T + plain.bias.asnumpy())
    held = {p.name.rpartition(".")[2]: p for p in layer.get_parameters()}
    assert set(held) == {"bias", "codes", "scales"}
    assert not held["codes"].requires_grad and str(held["codes"].dtype) == "Int8"


def test_nested_scales(mode, implementation):
    matrix = nf4.quantised(normal(300, 70))
    scales = NestedScales(matrix.nested.table, 256)
    offset = np.array([matrix.nested.offset], np.float32)
    found = scales(Tensor(matrix.scales), Tensor(matrix.nested.absmax), Tensor(offset)).asnumpy()
    assert np.array_equal(found, matrix.block_scales())


def test_what_a_cell_holds_is_what_it_was_filled_with(pynative):
    for make in MATRICES.values():
        matrix = make()
        cell = PackedWeight(matrix.layout, ms.float32)
        cell.fill(matrix)
        again = cell.stored()
        assert again.layout == matrix.layout
        assert np.array_equal(again.dequantised(), matrix.dequantised())
