"""Define which targets are scored and which ignored, for class numbers, token ids and numbers to predict alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from petrun.tensors.dtypes import Array

IGNORED = -100
"""An integer target that is not scored. Among float targets, where -100 is a number like any other, it is NaN."""


def is_scored(targets: Array) -> Array:
    """Return for integers or floats of any shape a bool of that shape: whether a target is scored."""
    scored: Array = ~np.isnan(targets) if targets.dtype.kind == "f" else targets != IGNORED
    return scored


def unscored(dtype: npt.DTypeLike) -> float:
    """Return the target of this dtype that is ignored."""
    return float("nan") if np.dtype(dtype).kind == "f" else IGNORED
