"""Find the matrices that a net holds as stacks, in the layouts that files have: each matrix by itself, or stacks joined with others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from petrun.errors import WeightsError
from petrun.models.base import StoredName
from petrun.tensors import TensorReader
from petrun.tensors.stacked import Stack, StackedReader

_LISTED = 5


def stacked_view(reader: TensorReader, names: Mapping[str, StoredName], prefixes: Sequence[str]) -> TensorReader:
    """Return the file's tensors with those of a stack as one, under StoredName.name; the reader itself where the file has none.

    Raises WeightsError where a file holds some of a stack's matrices and not all of them.
    """
    if not any(stored.parts for stored in names.values()):
        return reader
    canonical = {prefix + stored: stored for prefix in reversed(prefixes) for stored in reader.names}
    stacks: dict[str, Stack] = {}
    renamed: dict[str, str] = {}
    missing: list[str] = []
    for stored in names.values():
        held = [part for part in stored.parts if part in canonical]
        joined = stored.joined
        if held:
            missing += [part for part in stored.parts if part not in canonical]
            stacks[stored.name] = Stack(parts=tuple(canonical[part] for part in held))
        elif joined is not None and joined.name in canonical and stored.name not in canonical:
            if stored.parts:
                stacks[stored.name] = Stack(joined=canonical[joined.name], begin=joined.begin, end=joined.end)
            else:
                renamed[canonical[joined.name]] = stored.name
    if missing:
        more = f", ... and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise WeightsError(
            f"{reader.path}: lacks {_spell(missing)}{more}, and holds other experts of these layers",
            hint="Check that all files of the model are there, and that config.json says how many experts it has.",
        )
    return StackedReader(reader, stacks, renamed) if stacks or renamed else reader


def _spell(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:_LISTED])
