"""Rows without a label among others, through the command line."""

import json


def test_left_out_rows_are_counted_and_written_down(place, petrun):
    good = (place / "reviews.jsonl").read_text().rstrip("\n").split("\n")
    rows = [good[0], '{"text": "a film"}', *good[1:], '{"text": "a film", "label": null}']
    (place / "rows.jsonl").write_text("\n".join(rows) + "\n")
    line = "--base bert --data rows.jsonl"
    stopped = petrun(f"train {line} --out run --steps 1")
    assert stopped.code == 1 and "2 rows cannot be used:" in stopped.err and "--on-bad-row skip" in stopped.err
    assert "rows.jsonl, line 2: no column 'label'" in stopped.err and not (place / "run").exists()
    done = petrun(f"train {line} --out run --steps 1 --on-bad-row skip --batch-size 2")
    assert "2 that cannot be used left out" in done.out and "2 cannot be used" in done.out, done.err
    skipped = [json.loads(text) for text in (place / "run/skipped.jsonl").read_text().splitlines()]
    assert [(item["line"], item["row"]["text"]) for item in skipped] == [(2, "a film"), (len(rows), "a film")]
    found = json.loads((place / "run/results.json").read_text())["receipt"]["rows"]["train"]
    assert found["dropped"]["cannot be used"] == 2 and found["read"] == len(rows) and found["used"] == len(good)
    done = petrun("eval --base bert --delta run --data rows.jsonl --out res.json --on-bad-row skip")
    assert done.code == 0 and json.loads((place / "res.json").read_text())["rows"] == len(good), done.err
    assert (place / "res.json.skipped.jsonl").read_text() == (place / "run/skipped.jsonl").read_text()
    # Rows without a label can be predicted.
    assert petrun("predict --base bert --delta run --data rows.jsonl --out p.jsonl").code == 0
    assert len((place / "p.jsonl").read_text().splitlines()) == len(rows)
