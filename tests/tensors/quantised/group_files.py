"""Matrices packed as the tools of GPTQ and AWQ pack them: one code after another, with Python's integers."""

import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output, of eight, whose code stands at each place of a number."""


def rounded(weight, block, bits):
    """(codes (in, out), zeros (groups, out), scales float16 (groups, out)) of a matrix (out, in), by rounding to the nearest."""
    groups = weight.T.reshape(-1, block, len(weight))
    low, high = np.minimum(groups.min(1), 0), np.maximum(groups.max(1), 0)
    scales = np.maximum((high - low) / (2**bits - 1), 1e-4).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales), 0, 2**bits - 1).astype(int)
    codes = np.rint(groups / scales[:, None].astype(np.float32)) + zeros[:, None]
    return np.clip(codes, 0, 2**bits - 1).astype(int).reshape(weight.T.shape), zeros, scales


def values(codes, zeros, scales, group_of):
    """The matrix (out, in), float32, by the formula."""
    return ((codes - zeros[group_of]) * scales[group_of].astype(np.float32)).T.astype(np.float32)


def word(codes, bits):
    """One int32 of the codes, the first in the lowest bits."""
    number = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    return np.uint32(number).view(np.int32)


def gptq(path, codes, zeros, scales, group_of, bits, less_one=True, with_groups=True):
    """The tensors of a matrix, by name. `codes` (in, out): of input i with the scale of group_of[i]."""
    each = 32 // bits
    stored = (zeros - 1) % 2**bits if less_one else zeros
    found = {
        "qweight": [
            [word(codes[i : i + each, o], bits) for o in range(codes.shape[1])] for i in range(0, len(codes), each)
        ],
        "qzeros": [[word(row[o : o + each], bits) for o in range(0, len(row), each)] for row in stored],
    }
    arrays = {f"{path}.{leaf}": np.array(rows, np.int32) for leaf, rows in found.items()}
    if with_groups:
        arrays[f"{path}.g_idx"] = np.array(group_of, np.int32)
    return arrays | {f"{path}.scales": scales}


def awq(path, codes, zeros, scales):
    """The tensors of a matrix in 4 bits, by name."""

    def rows(table):
        starts = range(0, table.shape[1], 8)
        return np.array([[word([row[first + o] for o in AWQ_ORDER], 4) for first in starts] for row in table], np.int32)

    return {f"{path}.qweight": rows(codes), f"{path}.qzeros": rows(zeros), f"{path}.scales": scales}
