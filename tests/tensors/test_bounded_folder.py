"""A cache folder keeps its newest files, and always the one that was just written."""

import os

import pytest

from petrun.tensors.bounded_folder import remove_oldest


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (40, "a", {"a", "b", "c", "d"}),
        (39, "d", {"b", "c", "d"}),
        (20, "d", {"c", "d"}),
        # The file that is kept counts, whatever its time.
        (20, "a", {"a", "d"}),
        (5, "c", {"c"}),
    ],
)
def test_the_oldest_files_go_until_the_rest_is_within_the_limit(tmp_path, limit, keep, left):
    for age, name in enumerate("abcd"):
        path = tmp_path / f"{name}.part"
        path.write_bytes(b"0" * 10)
        os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "other.txt").write_bytes(b"0" * 100)
    remove_oldest(tmp_path, "*.part", limit, tmp_path / f"{keep}.part")
    assert {path.stem for path in tmp_path.glob("*.part")} == left
    assert (tmp_path / "other.txt").exists()
