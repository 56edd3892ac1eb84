"""The compile cache in the commands: the second start of a job compiles nothing and computes the same."""

import json

import pytest

from petrun.inference.generation.session import Session
from petrun.inference.generation.session_engine import SessionEngine
from petrun.parallel.compile_cache import counts
from petrun.serve.openai import CompletionRequest
from tests.tiny import write_rows

TRAIN = "train --base llama --data rows.jsonl --eval-data rows.jsonl --rank 2 --dropout 0.1 --batch-size 2 --accumulate 2 --seq-len 40"


@pytest.fixture
def cache(place, tmp_path, monkeypatch):
    """An empty cache of this test's, and rows of two lengths: two buckets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(
        place / "rows.jsonl", [{"prompt": "a" * length, "completion": "b"} for length in (3, 4, 30, 31, 3, 4, 30, 31)]
    )
    return tmp_path / "cache" / "petrun" / "graphs"


@pytest.fixture
def ran(petrun):
    """ran(line) -> (graphs that were loaded, graphs that were stored) by the command, which succeeded."""

    def run(line):
        before = counts().loaded, counts().stored
        done = petrun(line)
        assert done.code == 0, done.err or done.out
        assert counts().not_keyed == []
        return counts().loaded - before[0], counts().stored - before[1]

    return run


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "grad_norm" in line]


def delta(folder):
    return (folder / "lora.ckpt").read_bytes()


@pytest.mark.all_only
def test_the_second_start_loads_every_graph_and_trains_the_same(place, cache, ran):
    loaded, stored = ran(f"{TRAIN} --steps 3 --out cold")
    assert loaded == 0 and stored >= 4
    assert ran(f"{TRAIN} --steps 3 --out warm") == (stored, 0)
    assert ran(f"{TRAIN} --steps 3 --no-compile-cache --out without") == (0, 0)
    assert delta(place / "warm") == delta(place / "cold") == delta(place / "without")
    assert losses(place / "warm") == losses(place / "cold") == losses(place / "without")
    assert len(list(cache.glob("*.graph"))) == stored


@pytest.mark.all_only
def test_a_run_that_was_stopped_resumes_bit_exact_from_loaded_graphs(place, cache, ran, petrun):
    ran(f"{TRAIN} --steps 4 --out whole")
    begun = f"{TRAIN} --steps 4 --save-every 2 --max-time 1s --out part"
    assert petrun(begun).code == 0
    loaded, stored = ran("resume part --max-time 1h")
    assert stored == 0 and loaded >= 4
    assert delta(place / "part") == delta(place / "whole")


@pytest.mark.all_only
def test_evaluation_and_answers_of_loaded_graphs_are_the_same(place, cache, ran, petrun):
    ran(f"{TRAIN} --steps 2 --out run")
    results, answers = [], []
    for out in ("a.json", "b.json"):
        evaluated = ran(
            f"eval --base llama --delta run --data rows.jsonl --metrics all --max-new-tokens 4 --batch-size 2 --out {out}"
        )
        results.append(json.loads((place / out).read_text()))
        line = (
            "generate --base llama --delta run --prompt aaaa --prompt aaaaaaaaaaaaaaaaaaaaa --max-new-tokens 4 --json"
        )
        before = counts().loaded, counts().stored
        answers.append(petrun(line).out)
        answered = counts().loaded - before[0], counts().stored - before[1]
    assert evaluated[1] == answered[1] == 0 and evaluated[0] >= 3 and answered[0] >= 2
    assert results[0]["delta"] == results[1]["delta"] and results[0]["base"] == results[1]["base"]
    assert answers[0] == answers[1]
    without = petrun(f"{line} --no-compile-cache")
    assert without.out == answers[0]


@pytest.mark.all_only
def test_the_second_start_of_a_server_compiles_nothing_and_answers_the_same(place, cache):
    texts, counted = [], []
    for _ in range(2):
        engine = SessionEngine(Session.open("llama"), "llama", 2, 32)
        before = counts().loaded, counts().stored
        engine.warm_up()
        counted.append((counts().loaded - before[0], counts().stored - before[1]))
        engine.join(CompletionRequest(model="llama", prompt="film", max_tokens=6, temperature=0))
        chunks = []
        while not chunks or chunks[-1].end is None:
            chunks += engine.step()
        texts.append("".join(chunk.text for chunk in chunks))
    assert counted == [(0, 2), (2, 0)]
    assert texts[0] == texts[1] != ""


def test_a_cache_folder_that_cannot_be_written_is_said_once(place, cache, petrun):
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("")
    done = petrun("train --base bert --data reviews.jsonl --rank 2 --steps 1 --out run")
    assert done.code == 0
    assert done.out.count("compiled graphs are not kept") == 1
