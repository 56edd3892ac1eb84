"""A run, its scores and its answers from a program: the same that the commands give, and petrun's errors as exceptions."""

import json
import math
from functools import partial

import pytest

import petrun
from petrun.errors import ConfigError, DataError
from petrun.evaluate import metrics
from petrun.inference.generation import multi_delta
from petrun.inference.generation.session import Answer
from petrun.parallel.context import setup


@pytest.fixture
def trained(place):
    """A run of two steps, which is not told its folder."""
    return petrun.train(algo="lora", rank=2, steps=2, base=place / "gpt2", data="orders.jsonl", seed=3, quiet=True)


def test_a_run_returns_what_its_folder_holds(trained, place, petrun_command):
    assert trained.finished and trained.name == "lora-1" and len(trained.losses) == 2
    assert trained.delta == trained.folder / "lora.ckpt" and trained.delta.is_file()
    assert all(math.isfinite(loss) for loss in trained.losses) and trained.receipt["steps"]["done"] == 2
    assert trained.settings["delta.rank"] == 2 and trained.origins["delta.rank"] == "--rank"
    # The command with the same flags takes the same steps.
    done = petrun_command("train --rank 2 --steps 2 --base gpt2 --data orders.jsonl --seed 3 --out again")
    assert done.code == 0, done.err
    assert petrun.read_run("again").losses == trained.losses


def test_a_finished_run_is_resumed_to_itself_and_made_longer(trained):
    assert petrun.train(resume=trained.folder, quiet=True).losses == trained.losses
    longer = petrun.train(resume=trained.folder, steps=3, allow=["train.steps"], quiet=True)
    assert longer.folder == trained.folder and longer.losses[:2] == trained.losses and len(longer.losses) == 3


def test_figures_are_those_of_the_command(trained, place, petrun_command, capfd):
    capfd.readouterr()
    found = petrun.evaluate("gpt2", trained.delta, data=place / "orders.jsonl", quiet=True)
    assert capfd.readouterr().out == ""
    done = petrun_command(f"eval --base gpt2 --delta {trained.delta} --data orders.jsonl --out figures.json")
    assert done.code == 0, done.err
    wanted = json.loads((place / "figures.json").read_text())
    assert (found.base, found.deltas["lora"]) == (wanted["base"], wanted["delta"])
    assert found.results["rows"] == 4 and found.comparisons == ()
    assert petrun.evaluate("gpt2", data="orders.jsonl", quiet=True).deltas == {}


def test_several_deltas_are_compared(trained, place):
    found = petrun.evaluate("gpt2", f"a={trained.delta}", "b=gpt2-lora", data="orders.jsonl", quiet=True)
    assert set(found.deltas) == {"a", "b"} and found.comparisons[0]["first"] == "a"


def test_a_text_gets_an_answer_and_several_a_list(trained, pynative, monkeypatch):
    # A graph of the generator takes seconds to compile, and the text is the same.
    monkeypatch.setattr(multi_delta, "setup", partial(setup, pynative=True))
    session = petrun.load("gpt2", trained.delta)
    assert session.current == "lora"
    how = petrun.Decoding(max_new_tokens=4)
    one, many = session.generate("1+2=", how=how), session.generate(["1+2=", "2+2="], how=how)
    assert isinstance(one, Answer) and many[0] == one and len(many) == 2
    with pytest.raises(ConfigError, match="a conversation is one of several prompts"):
        session.generate([{"role": "user", "content": "1+2="}])


def test_errors_are_raised_and_nothing_is_left(place):
    (place / "broken.jsonl").write_text("{}\n")
    with pytest.raises(DataError):
        petrun.train(base="gpt2", data="broken.jsonl", out="new", quiet=True)
    with pytest.raises(ConfigError, match="--rank: 0 is not valid: must be at least 1"):
        petrun.train(base="gpt2", data="orders.jsonl", rank=0)
    with pytest.raises(ConfigError, match="is not for programs"):
        petrun.train(cards=2)
    with pytest.raises(petrun.PetrunError, match="no such file"):
        petrun.load("gpt2", "none.ckpt")
    assert not (place / "new").exists() and not (place / "runs").exists()


def test_packages_of_the_same_name_are_both_packages_and_functions():
    from petrun.train import loop

    assert petrun.train.loop is loop and petrun.evaluate.metrics is metrics and callable(petrun.evaluate)
    from inspect import signature

    assert list(signature(petrun.train).parameters) == ["recipe", "quiet", "callback", "options"]
