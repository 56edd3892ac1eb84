"""Convert class labels of files to indices 0..C-1 and their names.

Strings become names, sorted. Integers are indices when C is known, or when the data holds every integer from 0 to the largest;
otherwise (100, 102, 117) their values are names too, in numerical order. Given names take precedence over both. A column of strings
holds integers only where each is written as Python writes it: "01" and "1" are two names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from petrun.data.formats.records import Array
from petrun.errors import DataError, did_you_mean

_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)
_WHOLE = re.compile(r"(0|-?[1-9]\d*)\.0", re.ASCII)
"""The form in which pandas writes integers of a column that has missing values."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NUMBERS = (
    "Classes are integers or names. To predict numbers, train with --set data.regression=true, and with "
    "--set model.fresh_head=true where the base has a head for classes."
)
_MANY_CLASSES = 200
_MOST_CLASSES = 1_000_000


def resolve_labels(
    values: Sequence[object],
    where: Callable[[int], str],
    *,
    names: Sequence[str] = (),
    num_labels: int | None = None,
    indices_only: bool = False,
) -> tuple[Array, tuple[str, ...], int]:
    """Convert the labels of all rows to (indices int32 (n,), names in index order or () where indices have none, number of classes C).

    Inputs: `where(i)` names row i in messages; `names` are given by the user, the delta or the base; `num_labels` is the C of a
    model whose classes have no names; `indices_only` never makes names of integers (arrays, token ids, a user's own net).
    Raises: DataError naming the first row whose label is missing, NaN, not a class, mixed in type, unknown, or out of range.
    """
    names = tuple(str(name) for name in names)
    clean = _whole_numbers([check_label(value, where, i) for i, value in enumerate(values)], names)
    if names:
        index = {name: i for i, name in enumerate(names)}
        unknown = [i for i, value in enumerate(clean) if str(value) not in index]
        if not unknown:
            return np.array([index[str(value)] for value in clean], np.int32), names, len(names)
        indices = len(unknown) == len(clean) and all(_INTEGER.fullmatch(str(value)) for value in clean)
        if not indices or all(_INTEGER.fullmatch(name) for name in names):
            value = str(clean[unknown[0]])
            raise DataError(
                f"{where(unknown[0])}: unknown label '{value}'",
                hint=f"{did_you_mean(value, names)} There are {len(names)} classes: {_listed(names)}",
            )
    numbers, texts = _one_type(clean, where)
    if numbers:
        return _from_integers(numbers, where, names, num_labels, indices_only)
    found = tuple(sorted(set(texts)))
    if len(found) > max(_MANY_CLASSES, len(texts) // 2):
        raise DataError(
            f"the label column holds {len(found)} different values in {len(texts)} rows, '{texts[0][:40]}' to begin with: no classes",
            hint="Map the right column: --set data.columns.label=NAME",
        )
    if num_labels is not None and len(found) > num_labels:
        raise DataError(
            f"the data holds {len(found)} labels, the model {num_labels} classes",
            hint=f"Labels found: {_listed(found)}",
        )
    index = {name: i for i, name in enumerate(found)}
    return np.array([index[value] for value in texts], np.int32), found, max(len(found), num_labels or 0)


def check_label(value: object, where: Callable[[int], str], row: int) -> int | str:
    """Convert one label of a file to an integer or a text. Raises DataError for a missing one, NaN, and a value that is not a label."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(
            f"{where(row)}: the label is missing",
            hint="Rows without a label can be predicted, not trained on or evaluated.",
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            raise DataError(f"{where(row)}: the label is {value}", hint="A label is an integer or a name.")
        if value != int(value):
            raise DataError(
                f"{where(row)}: the label {value} is not an integer",
                hint=_NUMBERS,
            )
        return int(value)
    if isinstance(value, str):
        return value.strip()
    raise DataError(
        f"{where(row)}: the label is {type(value).__name__} {str(value)[:40]!r}, expected an integer or a name"
    )


_WORDS = {"true": True, "false": False}


def is_true_or_false(value: object) -> bool:
    """Whether a cell says true or false: a boolean, or its word in a format that has texts alone, as CSV."""
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _WORDS)


def read_true_or_false(value: object, column: str, where: str) -> bool:
    """Return what a cell says. Raises DataError naming the row, `where`, whose cell is missing or says neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    missing = value is None or value == ""
    problem = f"no label in the column '{column}'" if missing else f"the label {str(value)[:60]!r} is not true or false"
    raise DataError(f"{where}: {problem}", hint=f"Write {column}: true for a good answer, false for a bad one.")


def _whole_numbers(values: list[int | str], names: tuple[str, ...]) -> list[int | str]:
    """Convert a column of strings that all end in ".0" to integers, unless these strings are the names of the classes."""
    if set(map(str, values)) <= set(names) or not all(isinstance(v, str) and _WHOLE.fullmatch(v) for v in values):
        return values
    return [int(str(value).removesuffix(".0")) for value in values]


def _one_type(values: list[int | str], where: Callable[[int], str]) -> tuple[list[int], list[str]]:
    """Return (integers, []) where every label is one ("3" counts, "03" does not), else ([], names).

    Raises: DataError for a column of integers and words.
    """
    integer = [isinstance(value, int) or _INTEGER.fullmatch(value) is not None for value in values]
    if all(integer):
        return [int(value) for value in values], []
    number_like = [isinstance(value, int) or NUMBER.fullmatch(value) is not None for value in values]
    decimal = [like and float(value) % 1 != 0 for like, value in zip(number_like, values, strict=True)]
    number_at = _first(integer) if any(integer) else _first(decimal)
    if number_at is not None and not all(number_like):
        number, name = number_at, number_like.index(False)
        kind = "integer" if any(integer) else "number"
        raise DataError(
            f"mixed labels: {where(number)} has the {kind} {values[number]}, {where(name)} has '{values[name]}'",
            hint="Is line 1 a header with unknown names, or a row broken? Where both are names, list them: --set data.labels=[...]",
        )
    if all(number_like) and any(decimal):
        raise DataError(
            f"{where(0)}: the label {values[0]} is not an integer",
            hint=_NUMBERS,
        )
    return [], [str(value) for value in values]


def _first(flags: Sequence[bool]) -> int | None:
    return flags.index(True) if True in flags else None


def _from_integers(
    values: list[int], where: Callable[[int], str], names: tuple[str, ...], num_labels: int | None, indices_only: bool
) -> tuple[Array, tuple[str, ...], int]:
    lowest = min(values)
    count = len(names) or num_labels
    if lowest < 0 and (count or indices_only or lowest >= -1):
        raise DataError(
            f"{where(values.index(lowest))}: the label {lowest} is negative; classes are counted from 0",
            hint="-1 often marks rows without a label, which can only be predicted. Where it names a class: --set data.labels=[-1,1]",
        )
    highest = max(values)
    if count:
        if highest >= count:
            row = next(i for i, value in enumerate(values) if value >= count)
            known = f": {_listed(names)}" if names else ""
            raise DataError(
                f"{where(row)}: the label {values[row]} is out of range: there are {count} classes, 0 to {count - 1}{known}",
                hint="Training on more classes needs a new head: --set model.fresh_head=true, and no --init-delta.",
            )
        return np.array(values, np.int32), names, count
    distinct = sorted(set(values))
    if len(distinct) > max(_MANY_CLASSES, len(values) // 2) or (indices_only and highest >= _MOST_CLASSES):
        raise DataError(
            f"the label column holds {len(distinct)} different integers up to {highest} in {len(values)} rows: no classes",
            hint="Map the right column: --set data.columns.label=NAME",
        )
    if indices_only or (lowest >= 0 and len(distinct) == highest + 1):
        return np.array(values, np.int32), (), highest + 1
    index = {value: i for i, value in enumerate(distinct)}
    return (
        np.array([index[value] for value in values], np.int32),
        tuple(str(value) for value in distinct),
        len(distinct),
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
