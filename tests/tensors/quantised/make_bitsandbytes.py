"""Write bitsandbytes.npz beside this file: what bitsandbytes makes of small matrices on the CPU.

Run it where bitsandbytes 0.50 and torch are installed: python -m tests.tensors.quantised.make_bitsandbytes
"""

from pathlib import Path

import bitsandbytes.functional as of_bitsandbytes
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute as dequantise_in_torch

from tests.tensors.quantised.stored import CASES, weight


def values_of(packed, state):
    """What the codes stand for. Version 0.50.2's C++ takes the wrong block's scale where blocks of 64 cross rows and the width is even;
    its code in torch, for other devices, does not."""
    if state.shape[-1] % 64 == 0:
        return of_bitsandbytes.dequantize_4bit(packed, state).numpy()
    absmax = of_bitsandbytes.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return dequantise_in_torch(packed.reshape(-1), absmax, state.code, 64, state.shape, torch.float32).numpy()


def made_by_bitsandbytes(values):
    """What the library makes of one matrix, by name."""
    matrix = torch.tensor(values)
    packed, state = of_bitsandbytes.quantize_4bit(matrix, compress_statistics=True, quant_type="nf4")
    codes, rows, _ = of_bitsandbytes.int8_vectorwise_quant(matrix.clone())
    return {
        "nf4": packed.numpy().reshape(-1),
        "absmax": state.absmax.numpy(),
        "absmax2": state.state2.absmax.numpy(),
        "table2": state.state2.code.numpy(),
        "offset": np.float32(state.offset.item()),
        "nf4_values": values_of(packed, state),
        "int8": codes.numpy(),
        "rows": rows.numpy(),
        "int8_values": of_bitsandbytes.int8_vectorwise_dequant(codes, rows).numpy(),
    }


if __name__ == "__main__":
    held = {}
    for case in CASES:
        made = made_by_bitsandbytes(weight(case))
        if case == "long":
            # The values follow from the codes, and would make a large file.
            made = {key: value for key, value in made.items() if "values" not in key and "int8" not in key}
        held |= {f"{case}.{key}": value for key, value in made.items()}
    np.savez_compressed(Path(__file__).with_name("bitsandbytes.npz"), **held)
