"""What an interrupted pass has done is taken over, but for a line that was cut; that of another pass is not."""

import json

import pytest

from petrun.inference.interrupted_pass import read_done, resumed


def test_a_line_that_was_cut_is_dropped(tmp_path):
    path = tmp_path / "scores.partial"
    path.write_text('{"fingerprint": "a"}\n[0, "一"]\n[1, "二"]\n[2, "th', encoding="utf-8")
    assert read_done(path, "a") == [[0, "一"], [1, "二"]]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:] == [[0, "一"], [1, "二"]]
    assert path.read_text(encoding="utf-8").endswith("\n"), "the next line is appended"


def test_a_text_may_hold_a_separator_of_lines_and_the_last_line_end_within_a_character(tmp_path):
    path = tmp_path / "scores.partial"
    path.write_bytes('{"fingerprint": "a"}\n[0, "一\u2028\u0085"]\n[1, "二'.encode()[:-1])
    assert read_done(path, "a") == [[0, "一\u2028\u0085"]]
    assert read_done(path, "a") == [[0, "一\u2028\u0085"]], "as it was left"


def test_another_pass_is_begun_anew(tmp_path):
    path = tmp_path / "scores.partial"
    assert read_done(path, "a") == []
    for content in ('{"fingerprint": "b"}\n[0]\n', '{"fingerprint": "a"}\n', "[0]\n[1]\n", "no JSON"):
        path.write_text(content)
        assert read_done(path, "a") == [] and not path.exists()


def test_a_pass_goes_on_behind_what_it_has_done(tmp_path):
    """Given a pass that stopped in its second group, the next computes the rest alone; one with another key computes all."""
    path, asked = tmp_path / "pass.partial", []

    def squares(group):
        asked.append(list(group))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {number: item * item for number, item in group.items() if item % 2}

    with pytest.raises(KeyboardInterrupt):
        list(resumed(iter(range(100)), path, ("a",), squares))
    expected = [(item, item * item if item % 2 else None) for item in range(100)]
    assert list(resumed(iter(range(100)), path, ("a",), squares)) == expected
    # An item without a value is asked for again: nothing was kept of it.
    assert asked[2] == list(range(0, 64, 2)) and asked[3] == list(range(64, 100))
    assert list(resumed(iter(range(3)), path, ("b",), squares)) == expected[:3]
    assert asked[4] == [0, 1, 2]
