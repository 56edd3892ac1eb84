"""Files by shares, and the rows that make them."""

import pytest

from petrun.data.rows.shares import share_out, split_share
from petrun.errors import ConfigError


def test_a_share_stands_behind_the_file(tmp_path):
    assert split_share("a.jsonl:0.7") == ("a.jsonl", 0.7)
    assert split_share("a.jsonl#50:0.7") == ("a.jsonl#50", 0.7)
    assert split_share("a.jsonl#:50:2") == ("a.jsonl#:50", 2)
    for whole in ("a.jsonl", "a:b.jsonl", "a.jsonl#5:9", ":0.5"):
        assert split_share(whole) == (whole, None)
    existing = tmp_path / "rows:2"
    existing.write_text("text")
    assert split_share(str(existing)) == (str(existing), None)
    assert split_share(f"{existing}:3") == (str(existing), 3)
    for wrong in ("a.jsonl:0", "a.jsonl:-1", "a.jsonl:inf", "a.jsonl:nan"):
        with pytest.raises(ConfigError, match="the share must be a number above 0"):
            split_share(wrong)


def test_rows_are_shared_out():
    assert share_out([0.7, 0.3], [700, 700], None) == [700, 300]
    assert share_out([1, 1, 1], [9, 9, 9], 10) in ([4, 3, 3], [3, 4, 3], [3, 3, 4])
    assert share_out([2, 1], [10, 100], 60) == [40, 20]
    with pytest.raises(ConfigError, match="would give no row"):
        share_out([1000, 1], [10, 10], 10)
