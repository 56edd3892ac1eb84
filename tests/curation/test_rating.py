"""Ratings against an independent net in numpy, and by a delta that has learned to rate; prompts and numbers that are read."""

import numpy as np
import pytest

from petrun.curation.rating import doubt, expected_rating, generated_rating, rating_prompt, read_rating
from petrun.errors import ConfigError
from petrun.inference.generation.choices import choice_tokens
from petrun.inference.generation.session import Answer, TextChunk
from tests.curation.rows import read_jsonl, write_jsonl
from tests.curation.test_scoring import losses
from tests.program import call
from tests.tiny import letters, write_base

ROWS = [{"prompt": f"{a}+{b}=", "completion": str(a + b + wrong)} for a, b in ((1, 2), (2, 2)) for wrong in (0, 1)]
LONG = {"prompt": "a long question, longer than the net's positions", "completion": "no"}
EMPTY = {"prompt": "1+1=", "completion": " "}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "gpt2", "gpt2")
    write_jsonl(tmp_path / "rows.jsonl", [*ROWS, LONG, EMPTY])
    (tmp_path / "ask.txt").write_text("{question}{answer}?")
    return tmp_path


def rate(folder, *more, code=0):
    line = ["data", "rate", "rows.jsonl", "--base", "gpt2", "--prompt", "ask.txt", "--out", "ratings.jsonl", *more]
    assert call(line) == code
    return read_jsonl(folder / "ratings.jsonl") if code == 0 else None


def test_the_expected_value_is_that_of_the_nets_own_probabilities(folder, capfd):
    header, *found = rate(folder)
    assert header["by"] == "rating" and header["prompt"] == "{question}{answer}?"
    for row, entry in zip(ROWS, found, strict=False):
        text = f"{row['prompt']}{row['completion']}?Score: "
        logs = np.array([-losses(folder, letters().encode(text + digit).ids)[-1] for digit in "12345"])
        shares = np.exp(logs) / np.exp(logs).sum()
        assert np.abs(np.array(entry["probabilities"]) - shares).max() < 1e-5
        assert abs(entry["score"] - shares @ [1, 2, 3, 4, 5]) < 1e-5 > abs(entry["of_all_tokens"] - np.exp(logs).sum())
    assert [entry["reason"] for entry in found[4:]] == ["too long", "no question or no answer"]
    # A net that knows nothing of digits is told apart from one that rates.
    assert "it would answer something else" in capfd.readouterr().out


def test_generated_numbers_are_read_and_an_interrupted_pass_goes_on(folder, monkeypatch):
    """Given answers of a net, which knows nothing, there is no number; given those of one that rates, each row has the mean of its own."""
    how = ("--by", "generated", "--max-new-tokens", "9")
    _, *found = rate(folder, *how)
    assert [entry["reason"] for entry in found[:4]] == ["no score in the answer"] * 4
    asked = []

    def answers(self, requests):
        asked.extend(requests)
        for i, request in reversed(list(enumerate(requests))):
            text = f"Score: {1 + request.row // 2}" if request.row != 1 else "?"
            yield TextChunk(i, "", Answer(text=text, finish="stop", tokens=1, prompt_tokens=1))

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("petrun.inference.generation.session.Session.chunks", answers)
    how = (*how, "--samples", "2", "--temperature", "0.7")
    with monkeypatch.context() as patch:
        patch.setattr("petrun.commands.data.rate.write_scores", stopped)
        rate(folder, *how, code=130)
    assert [request.row for request in asked] == list(range(8)) and asked[2].prompt == "1+2=4?"
    _, *found = rate(folder, *how)
    assert [entry["score"] for entry in found] == [1, 2, 3, 4, None, None] and len(asked) == 8
    assert found[0]["ratings"] == [1, None]
    assert not (folder / "ratings.jsonl.partial").exists()
    select = ["data", "select", "rows.jsonl", "--scores", "ratings.jsonl", "--min-score", "3", "--top", "100%"]
    assert call([*select, "--out", "good.jsonl"]) == 0 and read_jsonl(folder / "good.jsonl") == ROWS[2:]


@pytest.mark.all_only
def test_a_delta_that_has_learned_to_rate_tells_right_from_wrong(folder):
    asked = [
        {"prompt": f"{row['prompt']}{row['completion']}?", "completion": "Score: " + "51"[i % 2]}
        for i, row in enumerate(ROWS)
    ]
    write_jsonl(folder / "learn.jsonl", asked)
    train = ["train", "--base", "gpt2", "--data", "learn.jsonl", "--algo", "lora", "--rank", "8", "--lr", "0.02"]
    assert call([*train, "--target", "all-linear", "--steps", "100", "--out", "rater"]) == 0
    _, *expected = rate(folder, "--delta", "rater")
    assert all((entry["score"] > 4) if i % 2 == 0 else (entry["score"] < 2) for i, entry in enumerate(expected[:4]))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Good.\nScore: 4", 4),
        ("Score: 2 at first.\nScore: 4.5", 4.5),
        ("Score: 9", None),
        ("score 4", None),
        ("", None),
    ],
)
def test_the_last_number_counts(answer, found):
    assert read_rating(answer) == found


def test_samples_that_hold_no_number_are_left_out_of_the_mean():
    assert generated_rating(["Score: 5", "?", "Score: 4"]) == {"score": 4.5, "ratings": [5, None, 4]}
    assert generated_rating(["?"])["reason"] == "no score in the answer"


def test_a_model_that_answers_with_digits_is_not_doubted():
    assert doubt([{"score": 4.0, "of_all_tokens": 0.9}, {"score": None}]) is None is doubt([])


def test_equal_probabilities_are_in_the_middle():
    assert expected_rating([-3.0] * 5)["score"] == pytest.approx(3)


def test_a_tokenizer_must_tell_the_digits_apart():
    class OneToken:
        def encode_continuations(self, texts, before):
            return [[7] for _ in texts]

    with pytest.raises(ConfigError, match="one token each"):
        choice_tokens(OneToken(), "Score: ", "12345")


@pytest.mark.parametrize("by", ["expected", "generated"])
def test_the_default_prompt_has_both_places(by):
    text = rating_prompt(None, by)
    assert text.count("{question}") == text.count("{answer}") == 1 and "Score:" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--by", "expectd"], "--by expectd: no such rating"),
        (["--samples", "3"], "--samples: has no effect on --by expected"),
        (["--by", "generated", "--samples", "3"], "--samples: has no effect at temperature 0"),
        (["--prompt", "none.txt"], "--prompt none.txt: cannot be read"),
        (["--prompt", "rows.jsonl"], "has no {question} and no {answer}"),
        (["--out", "ask.txt"], "would replace what this command reads"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, more, said):
    before = sorted(folder.iterdir())
    rate(folder, *more, code=2 if "--out" not in more else 1)
    shown = capfd.readouterr().err
    assert said in shown and "Traceback" not in shown
    assert sorted(folder.iterdir()) == before
