"""Call a C++ operator of the library itself, past MindSpore: with any number of threads, from any thread or process."""

import ctypes

import numpy as np


class Library:
    def __init__(self, path):
        self.loaded = ctypes.CDLL(str(path))

    def set_threads(self, count):
        self.loaded.petrun_set_threads(count)

    def threads(self):
        return self.loaded.petrun_threads()

    def call(self, name, inputs, outputs):
        """Status code and fresh float32 outputs of the given shapes. Output buffers start as NaN."""
        made = [np.full(shape, np.nan, np.float32) for shape in outputs]
        arrays = [*inputs, *made]
        count = len(arrays)
        shapes = [(ctypes.c_int64 * max(a.ndim, 1))(*a.shape) for a in arrays]
        code = getattr(self.loaded, f"petrun_{name}")(
            count,
            (ctypes.c_void_p * count)(*[a.ctypes.data for a in arrays]),
            (ctypes.c_int * count)(*[a.ndim for a in arrays]),
            (ctypes.POINTER(ctypes.c_int64) * count)(*[ctypes.cast(s, ctypes.POINTER(ctypes.c_int64)) for s in shapes]),
            (ctypes.c_char_p * count)(*[str(a.dtype).encode() for a in arrays]),
            None,
            None,
        )
        return code, made


def examples():
    """name -> (inputs, output shapes): every operator of the library, in sizes of several pieces and with tails."""
    rng = np.random.default_rng(0)

    def some(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    rows, hidden, classes = 700, 50, 1003
    x, dy, weight, bias = some(rows, hidden), some(rows, hidden), some(hidden), some(hidden)
    eps = np.array([1e-5], np.float32)
    b, n, kv, t, s, d = 2, 4, 2, 150, 170, 24
    q, k, v, dout = some(b, n, t, d), some(b, kv, s, d), some(b, kv, s, d), some(b, n, t, d)
    mask = rng.random((b, 1, t, s)) < 0.7
    scale, factor = np.array([0.2], np.float32), np.array([1.25], np.float32)
    step, place, key = (
        np.array(4, np.int32),
        np.array([3, 2], np.int32),
        np.array([12345, -987, -(2**31) + 858993459], np.int32),
    )
    row_scales = np.stack((np.full((b, n, t), 2.0), np.full((b, n, t), 0.05)), -1).astype(np.float32)
    table = some(b, 1, t, d)
    logits, targets = some(rows, classes), rng.integers(0, classes, rows).astype(np.int32)
    targets[::7] = -100
    logit_scales = np.stack((np.full(rows, 3.0), np.full(rows, 1e-3)), -1).astype(np.float32)
    drop = (step, place, key, factor)
    codes, blocks = rng.integers(0, 256, 200 * 130 // 2).astype(np.uint8), -(-200 * 130 // 64)
    packed = (codes, some(16), some(blocks), some(blocks), np.array([200, 130, 64], np.int32), np.ones(1, np.float32))
    nested = (some(256), codes, some(-(-codes.size // 256)), some(1), np.array([256], np.int32))
    chosen = rng.integers(0, 5, 2 * 350).astype(np.int32)
    chosen[chosen == 3] = 0  # one that no row chose
    return {
        "grouped_product": ([some(350, hidden), some(5, 70, hidden), chosen], [(700, 70)]),
        "grouped_product_grad": ([some(700, 70), some(5, 70, hidden), chosen, some(350, hidden)], [(350, hidden)]),
        "grouped_weight_grad": ([some(700, 70), some(350, hidden), chosen, some(5, 70, hidden)], [(5, 70, hidden)]),
        "packed_product": ([some(90, 130), *packed], [(90, 200)]),
        "packed_product_grad": ([some(90, 200), *packed], [(90, 130)]),
        "packed_values": ([some(1), *packed], [(200, 130)]),
        "nested_scales": (list(nested), [codes.shape]),
        "tanh": ([x], [x.shape]),
        "tanh_grad": ([x, dy], [x.shape]),
        "gelu": ([x], [x.shape]),
        "gelu_grad": ([x, dy], [x.shape]),
        "gelu_tanh": ([x], [x.shape]),
        "gelu_tanh_grad": ([x, dy], [x.shape]),
        "silu_mul": ([x, dy], [x.shape]),
        "silu_mul_grad": ([x, dy, x], [x.shape, x.shape]),
        "rope": ([q, table, table], [q.shape]),
        "rope_grad": ([q, table, table], [q.shape]),
        "split_heads": ([some(b, t, n * d)], [q.shape]),
        "split_qkv": ([some(b, t, 3 * n * d)], [q.shape] * 3),
        "merge_qkv": ([q, dout, q], [(b, t, 3 * n * d)]),
        "merge_heads": ([q], [(b, t, n * d)]),
        "dense_rows": ([x[:19], some(33, hidden)], [(19, 33)]),
        "dense_rows_bias": ([x[:19], some(33, hidden), some(33)], [(19, 33)]),
        "row_adapters": (
            [some(4, 70, hidden), some(4, 70, d), some(3, 8, d), some(3, hidden, 8), np.array([0, 2, 1, 2], np.int32)],
            [(4, 70, hidden)],
        ),
        "dropout": ([x, *drop], [x.shape]),
        "layer_norm": ([x, weight, bias, eps], [x.shape]),
        "layer_norm_grad": ([x, weight, dy, eps], [x.shape]),
        "layer_norm_weight_grad": ([x, dy, eps], [weight.shape]),
        "add_layer_norm": ([x, dy, weight, bias, eps], [x.shape, x.shape]),
        "row_sum": ([dy], [bias.shape]),
        "rms_norm": ([x, weight, eps], [x.shape]),
        "rms_norm_grad": ([x, weight, dy, eps], [x.shape]),
        "rms_norm_weight_grad": ([x, dy, eps], [weight.shape]),
        "scale_columns": ([x, weight], [x.shape]),
        "scale_columns_grad": ([x, weight, dy], [x.shape, weight.shape]),
        "cross_entropy": ([logits, targets], [(rows,), (rows, 2)]),
        "cross_entropy_grad": ([logits, targets, logit_scales, some(rows)], [logits.shape]),
        "attention": ([q, k, v, mask, scale], [q.shape, row_scales.shape]),
        "attention_grad": ([q, k, v, mask, scale, row_scales, dout], [q.shape, k.shape, v.shape]),
        "attention_dropout": ([q, k, v, mask, scale, *drop], [q.shape, row_scales.shape]),
        "attention_dropout_grad": ([q, k, v, mask, scale, *drop, row_scales, dout], [q.shape, k.shape, v.shape]),
    }
