"""Examples before a question: never the row's own question, never one of an evaluation file."""

import numpy as np
import pytest

from petrun.curation.shots import Pool, Turn, TurnReader, shown
from petrun.curation.similarity import unit_vectors
from petrun.errors import DataError
from tests.curation.rows import MIXED, read_jsonl, row, write_jsonl
from tests.program import call
from tests.tiny import write_base

TURNS = [Turn(question=f"q{i // 2}", answer=f"a{i}") for i in range(20)]


def test_a_turn_is_read_and_gets_its_examples():
    reader = TurnReader()
    assert reader(row(MIXED[1])) == Turn(question="Add\n1 2", answer="3")
    assert reader(row(MIXED[3])) == Turn(question="你好", answer="很好")
    assert reader.with_text(row(MIXED[1]), shown(TURNS[:2]))["instruction"] == "q0\na0\n\nq0\na1\n\nAdd"
    assert reader.with_text(row(MIXED[3]), "x ")["messages"][1]["content"] == "x 你好"
    asked, answered = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a")))
    two_lists = row({"prompt": [asked], "completion": [answered]})
    assert reader(two_lists) == Turn(question="q", answer="a")
    assert reader.with_text(two_lists, "x ")["prompt"] == [{"role": "user", "content": "x q"}]
    preferred = row({"chosen": "q a", "rejected": "q b"})
    assert reader(preferred) == Turn(question="q", answer=" a")
    assert reader.with_text(preferred, "x ") == {"prompt": "x q", "chosen": " a", "rejected": " b"}
    for cells in (MIXED[4], {"text": "plain"}):
        with pytest.raises(DataError, match=r"^rows\.jsonl, line 1"):
            reader(row(cells))


def test_random_examples_are_of_other_questions_and_the_same_again():
    pool = Pool(TURNS)
    for number, turn in enumerate(TURNS):
        found = pool.random(number, turn.key, 3, seed=1)
        assert len(set(found)) == 3 and turn.question not in {each.question for each in found}
        assert found == pool.random(number, turn.key, 3, seed=1)
    assert len(pool.random(0, TURNS[0].key, 50, seed=0)) == 18
    drawn = {each for number in range(200) for each in pool.random(number, 0, 1, seed=2)}
    assert drawn == set(TURNS)


def test_similar_examples_are_the_nearest_the_nearest_last():
    pool = Pool(TURNS)
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32))
    found = list(pool.similar([turn.key for turn in TURNS], vectors, vectors, 3))
    for number, examples in enumerate(found):
        order = [
            i
            for i in np.argsort(-vectors @ vectors[number], kind="stable")
            if TURNS[i].question != TURNS[number].question
        ]
        assert examples == [TURNS[i] for i in order[:3]][::-1]


def test_the_command_writes_rows_and_says_how_long_they_become(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "gpt2", "gpt2")
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(6)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "eval.jsonl", rows[4:])
    line = ["data", "shots", "rows.jsonl", "--shots", "2", "--against", "eval.jsonl", "--out", "out.jsonl"]
    assert call([*line, "--base", "gpt2", "--seq-len", "10"]) == 0
    found = read_jsonl(tmp_path / "out.jsonl")
    for given, made in zip(rows, found, strict=True):
        *examples, question = made["prompt"].split("\n\n")
        assert question == given["prompt"] and made["completion"] == given["completion"] and len(set(examples)) == 2
        assert not {given["prompt"], "q4", "q5"} & {example.split("\n")[0] for example in examples}
    shown_lines = capfd.readouterr().out.splitlines()
    assert shown_lines[-2].split() == ["without", "examples", "5", "5", "5", "0"]
    assert shown_lines[-1].split() == ["with", "examples", "19", "19", "19", "6"]
    assert call([*line[:4], "9", *line[5:]]) == 1 and "fewer than --shots 9" in capfd.readouterr().err
    assert call([*line, "--by", "similarity"]) == 2 and "belong together" in capfd.readouterr().err
