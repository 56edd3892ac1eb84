"""Convert npz arrays to an ExampleSet for a user's net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from petrun.data.examples.example_set import ARRAYS, IGNORED, ExampleSet, Stats
from petrun.data.formats.records import Array, Records
from petrun.data.rows.kinds import LABEL
from petrun.data.rows.labels import resolve_labels
from petrun.data.rows.targets import holds_targets, resolve_targets
from petrun.errors import DataError


def example_arrays(
    tables: Sequence[Records],
    names: Sequence[Mapping[str, str]],
    task: str,
    *,
    labels: tuple[str, ...],
    num_labels: int | None,
    need_target: bool,
    regression: bool | None = None,
    digest: str,
) -> ExampleSet:
    """Concatenate the rows of all files. Label: the array `label` or `labels`, integers, names or numbers to predict, (n,) or (n, 1).

    Raises: DataError for another task, a missing label, or files whose arrays differ in name or shape.
    """
    first = tables[0]
    if task != "classify":
        raise DataError(
            f"{first.path}: arrays can be classified only, not --task {task}",
            hint=f"Arrays found: {', '.join(first.columns)}",
        )
    label_of = _label_arrays(tables, names, need_target)
    features = [
        {name: plain_array(table, name) for name in table.arrays if name != label}
        for table, label in zip(tables, label_of, strict=True)
    ]
    _check_alike(tables, features)
    counts = [len(table) for table in tables]
    total = sum(counts)
    indices, found, classes = np.full(total, IGNORED, np.int32), labels, num_labels or len(labels) or None
    if need_target:
        indices, found, classes = _labels(tables, label_of, labels, num_labels, regression)
    return ExampleSet(
        task=task,
        kind=ARRAYS,
        offsets=np.zeros(total + 1, np.int64),
        flat={},
        per_row={
            "row": np.arange(total, dtype=np.int32),
            "label": indices,
            "prompt_length": np.zeros(total, np.int32),
            "file": np.repeat(np.arange(len(tables), dtype=np.int32), counts),
            "line": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
        },
        arrays={name: np.concatenate([arrays[name] for arrays in features]) for name in features[0]},
        labels=found,
        num_labels=classes,
        files=tuple(str(table.path) for table in tables),
        columns=first.columns,
        formats=tuple(table.format for table in tables),
        stats=Stats(read=total, used=total),
        digest=digest,
    )


def _labels(
    tables: Sequence[Records],
    label_of: Sequence[str | None],
    labels: tuple[str, ...],
    num_labels: int | None,
    regression: bool | None,
) -> tuple[Array, tuple[str, ...], int]:
    """Return (class indices int32 (n,) or numbers to predict float32 (n,); names of the classes; their number, 1 for numbers)."""
    values = [
        value for table, label in zip(tables, label_of, strict=True) for value in _label_values(table, str(label))
    ]
    origins = [table.where(i) for table in tables for i in range(len(table))]
    if holds_targets(values, asked=regression, labels=labels, num_labels=num_labels):
        return resolve_targets(values, origins.__getitem__), (), 1
    return resolve_labels(values, origins.__getitem__, names=labels, num_labels=num_labels, indices_only=True)


def _label_arrays(tables: Sequence[Records], names: Sequence[Mapping[str, str]], needed: bool) -> list[str | None]:
    """Return the name of each file's label array."""
    found = [next((name[key] for key in LABEL if key in name), None) for name in names]
    if needed and None in found:
        table = tables[found.index(None)]
        raise DataError(
            f"{table.path}: no array 'label'",
            hint=f"Arrays found: {', '.join(table.columns)}. Another name is mapped by --set data.columns.label=NAME.",
        )
    return found


def _check_alike(tables: Sequence[Records], features: Sequence[Mapping[str, Array]]) -> None:
    first = features[0]
    if not first:
        raise DataError(f"{tables[0].path}: no array besides the label")
    expected = {name: (array.shape[1:], array.dtype) for name, array in first.items()}
    for table, arrays in zip(tables, features, strict=True):
        if {name: (array.shape[1:], array.dtype) for name, array in arrays.items()} != expected:
            raise DataError(
                f"{table.path}: arrays {_shapes(arrays)} differ from those of {tables[0].path.name}: {_shapes(first)}"
            )


def plain_array(table: Records, name: str) -> Array:
    """Convert one array for a cell: float32 for floats, int32 for wide integers; other numbers stay.

    Raises: DataError for strings, NaN, infinity, and integers beyond 32 bits.
    """
    array = table.arrays[name]
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise DataError(
                f"{table.where(row)}: array '{name}' holds NaN or infinity",
                hint=f"{int(bad.sum())} such values in all.",
            )
        return np.ascontiguousarray(array, np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize >= 4:
        if array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
            raise DataError(f"{table.path}: array '{name}' holds integers that do not fit 32 bits")
        return np.ascontiguousarray(array, np.int32)
    if array.dtype.kind not in "iub":
        raise DataError(f"{table.path}: array '{name}' has the type {array.dtype}, expected numbers")
    return array


def _label_values(table: Records, name: str) -> list[object]:
    array = table.arrays[name]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{table.path}: array '{name}' has the shape {array.shape}, expected one label a row",
            hint="One-hot labels: numpy.argmax(label, axis=1).",
        )
    return list(array)


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape[1:])}" for name, array in arrays.items())
