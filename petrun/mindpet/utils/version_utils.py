"""MindPet's comparison of versions."""

from __future__ import annotations


def is_version_le(current_version: str, base_version: str) -> bool:
    """Return whether the first is at most the second. See `is_version_ge`."""
    ours, theirs = _numbers(current_version, base_version)
    return ours <= theirs


def is_version_ge(current_version: str, base_version: str) -> bool:
    """Return whether the first is at least the second, by the numbers between the dots that both have.

    As in MindPet, parts where one of them is not a number (`0rc1`), or that one does not have, count as equal: 2.0.0rc1 is 2.0.0.
    Raises ValueError for a version without a dot.
    """
    ours, theirs = _numbers(current_version, base_version)
    return ours >= theirs


def _numbers(*versions: str) -> tuple[list[int], list[int]]:
    for version in versions:
        if "." not in version:
            raise ValueError(f"a version has numbers between dots, such as 2.10.0; got {version!r}")
    first, second = (version.split(".") for version in versions)
    places = [(a, b) for a, b in zip(first, second, strict=False) if a.isdigit() and b.isdigit()]
    return [int(a) for a, _ in places], [int(b) for _, b in places]
