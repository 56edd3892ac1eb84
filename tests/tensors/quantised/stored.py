"""What bitsandbytes made of the matrices of make_bitsandbytes.py."""

from pathlib import Path

import numpy as np

CASES = {
    "normal": (24, 128),
    "across": (24, 96),
    "wide": (3, 4352),
    "odd": (5, 7),
    "partial": (7, 30),
    "long": (70, 1024),
}


def weight(name):
    """Numbers with rows of very different size, and a row of zeros."""
    values = np.random.default_rng(len(name)).standard_normal(CASES[name]).astype(np.float32)
    values *= np.geomspace(1e-3, 2, len(values), dtype=np.float32)[:, None]
    values[1] = 0
    return values


def stored(case):
    """The library's arrays of one matrix, by name."""
    with np.load(Path(__file__).with_name("bitsandbytes.npz")) as held:
        return {key.partition(".")[2]: held[key] for key in held.files if key.partition(".")[0] == case}
