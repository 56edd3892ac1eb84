"""Recognise a column of numbers to predict, check and convert it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from petrun.data.formats.records import Array
from petrun.data.rows.labels import NUMBER, check_label
from petrun.errors import DataError

REGRESSION = "regression"
_NO_NUMBERS = ("nan", "inf", "infinity")
"""Texts of floats that are not numbers to predict."""
_LARGEST = float(np.finfo(np.float32).max)


def holds_targets(
    values: Iterable[object], *, asked: bool | None, labels: Sequence[str], num_labels: int | None
) -> bool:
    """Return whether a label column holds numbers to predict.

    Inputs: `asked` is data.regression; `labels` and `num_labels` are those that model, delta or user fix: a head with one output
    predicts a number. Where nothing is fixed: all labels are numbers, or missing, and at least one is not an integer.
    Raises: DataError where data.regression contradicts the model.
    """
    if num_labels is not None:
        if asked is not None and asked != (num_labels == 1):
            known = "one number, no class" if num_labels == 1 else f"{num_labels} classes, no number"
            raise DataError(
                f"data.regression = {str(asked).lower()}, but the model predicts {known}",
                hint="Leave data.regression out; or put a new head in its place: --set model.fresh_head=true, and no --init-delta.",
            )
        if num_labels == 1 and labels:
            raise DataError(
                "data.labels names classes, but the model predicts one number, no class", hint="Leave it out."
            )
        return num_labels == 1
    if labels:
        if asked:
            raise DataError("data.regression = true, but data.labels names classes", hint="Give one or the other.")
        return False
    return _are_decimals(values) if asked is None else asked


def _are_decimals(values: Iterable[object]) -> bool:
    fraction = False
    for value in values:
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None or (isinstance(plain, int) and not isinstance(plain, bool)):
            continue
        if isinstance(plain, str):
            text = plain.strip()
            if not text or text.lstrip("+-").lower() in _NO_NUMBERS:
                continue
            if NUMBER.fullmatch(text) is None:
                return False
            plain = float(text)
        if not isinstance(plain, float):
            return False
        fraction = fraction or (math.isfinite(plain) and plain % 1 != 0)
    return fraction


def check_target(value: object, where: Callable[[int], str], row: int) -> float:
    """Convert one number to predict. Raises DataError for a missing one, NaN, infinity, and a value that is not a number."""
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or (isinstance(plain, str) and not plain.strip()):
        check_label(plain, where, row)
    number: float | None = None
    if isinstance(plain, str):
        text = plain.strip()
        if NUMBER.fullmatch(text) or text.lstrip("+-").lower() in _NO_NUMBERS:
            number = float(text)
    elif isinstance(plain, int | float) and not isinstance(plain, bool):
        # An integer of a JSON file may be too long for a float.
        number = float(plain) if abs(plain) <= _LARGEST or not math.isfinite(plain) else math.inf
    if number is None:
        raise DataError(
            f"{where(row)}: the label {str(plain)[:40]!r} is no number, and the model predicts a number",
            hint="Where these are classes, train a head for them: --set data.regression=false, with --set model.fresh_head=true for a "
            "base that predicts a number.",
        )
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise DataError(
            f"{where(row)}: the label {str(plain)[:40]} is no number that float32 holds",
            hint="A number to predict is finite.",
        )
    return number


def resolve_targets(values: Sequence[object], where: Callable[[int], str]) -> Array:
    """Convert the labels of all rows to (n,) float32. `where(i)` names row i. Raises DataError naming the first label that is not a
    number.
    """
    return np.array([check_target(value, where, i) for i, value in enumerate(values)], np.float32)
