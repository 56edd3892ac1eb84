"""Whole files through the rules, the duplicates and the evaluation files."""

import pytest

pytest.importorskip("datasketch")
pytest.importorskip("ftfy")
from tests.curation.rows import read_jsonl, write_jsonl
from tests.program import call

LINE = "Please deliver {0} blue chairs to our office in {1} and tell {2} about the exact date and time of the delivery"
GOOD = [
    {"prompt": LINE.format(12, "Rome", "Anna"), "completion": "item: chairs, city: Rome"},
    {
        "prompt": "What is the capital of the country north of Italy and west of Austria, with four languages?",
        "completion": "Bern",
    },
    {
        "prompt": "Name the largest planet of our solar system and say how many moons it is known to have.",
        "completion": "Jupiter",
    },
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dropped(folder):
    return {row["line"]: (row["reason"], row["problem"]) for row in read_jsonl(folder / "out.jsonl.dropped.jsonl")}


def test_rows_are_dropped_each_for_its_first_reason(folder, capfd):
    rows = [
        *GOOD,
        {"prompt": "q", "completion": "Hello<br>there"},
        {"prompt": GOOD[1]["prompt"].upper(), "completion": " bern "},
        {"prompt": GOOD[0]["prompt"] + ".", "completion": "item: chairs, city: Rome"},
        {"numbers": [1, 2]},
        {"prompt": "Something else entirely, for once", "completion": "Yes."},
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    with open("rows.jsonl", "a") as file:
        file.write('{"prompt": \n')
    assert call(["data", "clean", "rows.jsonl", "--out", "out.jsonl"]) == 0
    assert read_jsonl(folder / "out.jsonl") == [*GOOD, rows[-1]]
    found = dropped(folder)
    assert {line: reason for line, (reason, _) in found.items()} == {
        4: "html", 5: "duplicate", 6: "near duplicate", 7: "no text", 9: "cannot be read",
    }  # fmt: skip
    assert found[5][1] == "the same as rows.jsonl, line 2" and found[6][1].startswith(
        "in one group with rows.jsonl, line 1, "
    )
    shown = capfd.readouterr().out
    assert "wrote 4 rows to out.jsonl" in shown and "1  near duplicate" in shown
    before = (folder / "out.jsonl.dropped.jsonl").read_bytes()
    assert call(["data", "clean", "rows.jsonl", "--out", "out.jsonl"]) == 0
    assert (folder / "out.jsonl.dropped.jsonl").read_bytes() == before


def test_questions_of_an_evaluation_file_are_dropped(folder):
    write_jsonl(
        folder / "rows.jsonl", [*GOOD, {"prompt": GOOD[0]["prompt"] + " please", "completion": "another answer"}]
    )
    write_jsonl(
        folder / "eval.jsonl",
        [{"prompt": "unseen", "completion": "x"}, {"prompt": GOOD[0]["prompt"], "completion": "y"}],
    )
    assert call(["data", "clean", "rows.jsonl", "--against", "eval.jsonl", "--out", "out.jsonl"]) == 0
    assert read_jsonl(folder / "out.jsonl") == GOOD[1:]
    found = dropped(folder)
    assert found[1] == ("in an evaluation file", "has the question of eval.jsonl, line 2")
    assert found[4][0] == "near an evaluation file" and "near that of eval.jsonl, line 2, similarity 0.9" in found[4][1]


def test_bitext_has_its_own_rules(folder):
    rows = [
        {"translation": {"en": "We sold 1,200 chairs.", "zh": "我们卖了1200把椅子。"}},
        {"translation": {"en": "We sold 12 chairs.", "zh": "我们卖了15把椅子。"}},
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    line = [
        "data",
        "clean",
        "rows.jsonl",
        "--bitext",
        "--source",
        "translation.en",
        "--target",
        "translation.zh",
        "--out",
        "out.jsonl",
    ]
    assert call(line) == 0
    assert read_jsonl(folder / "out.jsonl") == rows[:1]
    assert dropped(folder)[2] == ("numbers", "numbers differ: 12 against 15")
    assert call([*line, "--without", "numbers"]) == 0 and len(read_jsonl(folder / "out.jsonl")) == 2


def test_the_key_says_what_makes_duplicates(folder):
    write_jsonl(
        folder / "rows.jsonl", [GOOD[0], {**GOOD[0], "completion": "other"}, {"prompt": "z", "completion": "other"}]
    )
    for key, count in (("row", 3), ("question", 2), ("answer", 2)):
        assert call(["data", "clean", "rows.jsonl", "--near", "0", "--key", key, "--out", "out.jsonl"]) == 0
        assert len(read_jsonl(folder / "out.jsonl")) == count


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--without", "htlm"], "Did you mean html"),
        (["--without", "numbers"], "not asked here anyway"),
        (["--near", "2"], "a similarity from 0.3"),
        (["--bitext", "--langs", "en"], "are two"),
        (["--key", "rows"], "Did you mean row?"),
        (["--langs", "english"], "no language 'english'"),
        (["--min-chars", "1000"], "no row is left, so nothing was written:\n  3 rows: short, first rows.jsonl, line 1"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, more, said):
    write_jsonl(folder / "rows.jsonl", GOOD)
    assert call(["data", "clean", "rows.jsonl", "--out", "out.jsonl", *more]) in (1, 2)
    assert said in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["rows.jsonl"]
