"""What an interrupted pass has done is taken over, but for a line that was cut; that of another pass is not."""

import json

from petrun.inference.interrupted_pass import read_done


def test_a_line_that_was_cut_is_dropped(tmp_path):
    path = tmp_path / "scores.partial"
    path.write_text('{"fingerprint": "a"}\n[0, "一"]\n[1, "二"]\n[2, "th', encoding="utf-8")
    assert read_done(path, "a") == [[0, "一"], [1, "二"]]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:] == [[0, "一"], [1, "二"]]
    assert path.read_text(encoding="utf-8").endswith("\n"), "the next line is appended"


def test_another_pass_is_begun_anew(tmp_path):
    path = tmp_path / "scores.partial"
    assert read_done(path, "a") == []
    for content in ('{"fingerprint": "b"}\n[0]\n', '{"fingerprint": "a"}\n', "[0]\n[1]\n", "no JSON"):
        path.write_text(content)
        assert read_done(path, "a") == [] and not path.exists()
