"""`petrun data` as the program runs it: files in, files out, the same bytes for the same command."""

import json

import pytest

from tests.curation.rows import MIXED, read_jsonl, write_jsonl
from tests.program import call


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": f"question {i // 2}", "completion": f"answer {i}"} for i in range(200)]
    )
    return tmp_path


def test_stats_prints_and_writes(rows, capfd):
    assert call(["data", "stats", "rows.jsonl", "--json", "--html", "page.html"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["rows"] == 200 and found["questions equal to an earlier one"] == 100
    assert "<h1>rows.jsonl</h1>" in (rows / "page.html").read_text()
    assert call(["data", "stats", "rows.jsonl"]) == 0
    assert "answer characters, rows of each length" in capfd.readouterr().out


def test_convert_writes_a_report_and_what_it_dropped(rows, capfd):
    write_jsonl(rows / "mixed.jsonl", MIXED)
    assert call(["data", "convert", "mixed.jsonl", "--to", "alpaca", "--out", "out.json"]) == 1
    assert "mixed.jsonl, line 4: Alpaca has no form for tools" in capfd.readouterr().err
    assert not list(rows.glob("out*"))
    assert call(["data", "convert", "mixed.jsonl", "--to", "alpaca", "--out", "out.json", "--on-bad-row", "skip"]) == 0
    assert len(json.loads((rows / "out.json").read_text())) == 4
    (dropped,) = read_jsonl(rows / "out.json.dropped.jsonl")
    assert (dropped["file"], dropped["line"], dropped["row"]) == ("mixed.jsonl", 4, MIXED[3])
    report = json.loads((rows / "out.json.report.json").read_text())
    assert report["kept"] == 4 and report["dropped"] == {"has no form as alpaca": 1}
    assert len(report["inputs"][0]["sha256"]) == 64


def test_head_prints_and_writes(rows, capfd):
    assert call(["data", "head", "rows.jsonl", "-n", "1"]) == 0
    assert json.loads(capfd.readouterr().out) == {"prompt": "question 0", "completion": "answer 0"}
    assert call(["data", "head", "rows.jsonl", "-n", "3", "--out", "three.jsonl"]) == 0
    assert len(read_jsonl(rows / "three.jsonl")) == 3


def test_split_keeps_questions_together(rows):
    assert call(["data", "split", "rows.jsonl", "--parts", "train=0.8,eval=40", "--out", "parts"]) == 0
    train, evaluated = (read_jsonl(rows / "parts" / f"{name}.jsonl") for name in ("train", "eval"))
    assert len(evaluated) == 40 and len(train) == 128
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in evaluated}
    assert json.loads((rows / "parts" / "report.json").read_text())["in no part"] == 32
    assert call(["data", "split", "rows.jsonl", "--out", "parts"]) == 1


def test_split_names_the_lines_that_it_leaves_out(rows, capfd):
    with (rows / "rows.jsonl").open("a") as file:
        file.write('{"prompt": \n')
    assert call(["data", "split", "rows.jsonl", "--out", "parts", "--on-bad-row", "skip"]) == 0
    assert "left out 1 lines that cannot be read" in capfd.readouterr().out
    (dropped,) = read_jsonl(rows / "parts" / "dropped.jsonl")
    assert dropped["line"] == 201 and dropped["row"] == '{"prompt": '
    report = json.loads((rows / "parts" / "report.json").read_text())
    assert report["cannot be read"] == 1 and sum(report["rows"].values()) == 200


def test_a_spreadsheet_of_chinese_questions_becomes_instructions(rows, capfd):
    (rows / "问答 1.csv").write_bytes("问题,答案,\r\n你好,再见,\r\n,,\r\n".encode("gbk"))
    line = ["data", "convert", "问答 1.csv", "--to", "messages", "--out", "out.jsonl"]
    assert call([*line, "--source", "问题", "--target", "答案", "--encoding", "gbk"]) == 0
    (found,) = read_jsonl(rows / "out.jsonl")
    assert [message["content"] for message in found["messages"]] == ["你好", "再见"]
    assert call(["data", "convert", "rows.jsonl", "--source", "prompt", "--target", "x", "--out", "o.csv"]) == 2
    assert "--source and --target are for --to and --swap" in capfd.readouterr().err


def test_mix_is_the_same_for_the_same_seed(rows):
    write_jsonl(rows / "web.jsonl", [{"prompt": f"w{i}", "completion": "x"} for i in range(30)])
    line = ["data", "mix", "rows.jsonl:0.75", "web.jsonl:0.25:tag=From the web.", "--out"]
    assert call([*line, "a.jsonl"]) == call([*line, "b.jsonl"]) == call([*line, "c.jsonl", "--seed", "1"]) == 0
    assert (rows / "a.jsonl").read_bytes() == (rows / "b.jsonl").read_bytes() != (rows / "c.jsonl").read_bytes()
    found = read_jsonl(rows / "a.jsonl")
    assert len(found) == 120 and sum(row.get("system") == "From the web." for row in found) == 30
    assert len({json.dumps(row) for row in found}) == 120


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["data", "convert", "rows.jsonl"], "--out is missing"),
        (["data", "convert", "rows.jsonl", "--out", "rows.jsonl"], "would replace what this command reads"),
        (["data", "convert", "rows.jsonl", "--out", "rows.txt"], "names no format"),
        (["data", "convert", "rows.jsonl", "--out", "o.jsonl", "--to", "alpacca"], "Did you mean alpaca?"),
        (["data", "head", "none.jsonl"], "no such data file"),
        (["data", "stats", "rows.jsonl", "--source", "prompt"], "belong together"),
        (["data", "mix", "rows.jsonl", "--tag-as", "tokens", "--out", "o.jsonl"], "Did you mean token?"),
        (
            ["data", "mix", "rows.jsonl", "--tag-as", "token", "--out", "o.jsonl"],
            "--tag-as: has no effect without a tag",
        ),
        (
            ["data", "clean", "rows.jsonl", "--max-ratio", "2", "--out", "o.jsonl"],
            "--max-ratio: has no effect without the rule ratio",
        ),
        (
            ["data", "clean", "rows.jsonl", "--min-chars", "2", "--without", "short", "--out", "o.jsonl"],
            "--min-chars: has no effect without the rule short",
        ),
        (
            ["data", "shots", "rows.jsonl", "--seq-len", "9", "--out", "o.jsonl"],
            "--seq-len: has no effect without --base",
        ),
        (
            ["data", "shots", "rows.jsonl", "--device", "cpu", "--out", "o.jsonl"],
            "--device: has no effect without --encoder",
        ),
        (
            ["data", "select", "rows.jsonl", "--scores", "s.jsonl", "--seed", "1", "--out", "o.jsonl"],
            "--seed: has no effect without --diverse",
        ),
        (
            ["data", "score", "rows.jsonl", "--target", "completion", "--out", "s.jsonl"],
            "--target has no effect on --by ifd",
        ),
        (
            [
                "data",
                "score",
                "rows.jsonl",
                "--by",
                "similarity",
                "--encoder",
                "e",
                "--seq-len",
                "9",
                "--out",
                "s.jsonl",
            ],
            "--seq-len has no effect on --by similarity",
        ),
        (
            [
                "data",
                "backtranslate",
                "rows.jsonl",
                "--delta",
                "d",
                "--temperature",
                "0",
                "--seed",
                "3",
                "--out",
                "o.jsonl",
            ],
            "--seed: has no effect at temperature 0",
        ),
    ],
)
def test_wrong_calls_end_with_one_clear_error(rows, capfd, line, said):
    assert call(line) in (1, 2)
    shown = capfd.readouterr()
    assert said in shown.err and "Traceback" not in shown.err
    assert sorted(path.name for path in rows.iterdir()) == ["rows.jsonl"]
