"""The forms in which petrun quantises a matrix by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from petrun.errors import WeightsError
from petrun.tensors.dtypes import Array
from petrun.tensors.quantised import int8, nf4
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix

CODECS: Mapping[str, Callable[[Array], PackedMatrix]] = {"int8": int8.quantised, "nf4": nf4.quantised}


def quantise(form: str, values: Array, what: str) -> PackedMatrix:
    """Quantise a matrix (out, in) in a form of CODECS.

    `what`: its file and name, for the error. Raises WeightsError where a value is NaN, Inf or beyond float32, as none has a code.
    """
    with np.errstate(over="ignore"):
        matrix = np.asarray(values, np.float32)
    finite = np.isfinite(matrix)
    if not finite.all():
        raise WeightsError(
            f"{what} holds {matrix.size - int(finite.sum())} NaN or Inf among {matrix.size} values",
            hint="The base is damaged or its training diverged: fetch it again, or use another copy.",
        )
    return CODECS[form](matrix)


def layout_of(form: str, shape: tuple[int, int]) -> PackedLayout:
    """Return the layout of a matrix (out, in) in a form of CODECS."""
    if form == "int8":
        return PackedLayout(form=form, shape=shape, block=shape[1], bits=8, unit=int8.UNIT)
    return PackedLayout(form=form, shape=shape, block=nf4.BLOCK, bits=4, nested_block=nf4.NESTED_BLOCK)
