"""The forms in which petrun quantises a matrix by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from petrun.tensors.dtypes import Array
from petrun.tensors.quantised import int8, nf4
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix

CODECS: Mapping[str, Callable[[Array], PackedMatrix]] = {"int8": int8.quantised, "nf4": nf4.quantised}


def layout_of(form: str, shape: tuple[int, int]) -> PackedLayout:
    """Return the layout of a matrix (out, in) in a form of CODECS."""
    if form == "int8":
        return PackedLayout(form=form, shape=shape, block=shape[1], bits=8, unit=int8.UNIT)
    return PackedLayout(form=form, shape=shape, block=nf4.BLOCK, bits=4, nested_block=nf4.NESTED_BLOCK)
