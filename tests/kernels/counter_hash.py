"""The hash of petrun/kernels/dropout.py by its formula, and numbers made of it, in numpy alone."""

import hashlib

import numpy as np


def reference_hash(seed, site, step, count, first=0):
    """The hashes of elements first, first + 1, ...: (count,) uint64 below 2^32, with an explicit modulus."""
    modulus = np.uint64(0xFFFFFFFF)
    digest = hashlib.sha256(f"{seed}/{site}".encode()).digest()
    k0, k1 = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))

    def times(x, factor):
        return x * np.uint64(factor) & modulus

    def fold(x, by):
        return x ^ (x >> np.uint64(by))

    def z(x):
        return fold(times(fold(times(fold(x, 16), 0x21F0AAAD), 15), 0x735A2D97), 15)

    a = z(np.array([(k0 + step * 0x9E3779B9) & 0xFFFFFFFF], np.uint64))
    b = z(a ^ np.uint64(k1))
    h = np.arange(first, first + count, dtype=np.uint64) ^ a
    h = fold(h, 16)
    h = times(h, 0x21F0AAAD) + b & modulus
    return fold(times(fold(h, 15), 0x735A2D97), 15)


def reference_uniform(seed, site, step, shape, first=0):
    """Uniform numbers in [0, 1) of a tensor whose element 0 is element `first` of the whole batch's, float64."""
    count = int(np.prod(shape))
    return ((reference_hash(seed, site, step, count, first) >> np.uint64(8)) / 2.0**24).reshape(shape)


def reference_normal(seed, site, step, shape, first=0):
    """Normal numbers by Box and Muller, float64."""
    u = reference_uniform(seed, f"{site}.length", step, shape, first) + 0.5 / 2.0**24
    return np.sqrt(-2.0 * np.log(u)) * np.cos(
        2.0 * np.pi * reference_uniform(seed, f"{site}.angle", step, shape, first)
    )
