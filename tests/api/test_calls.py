"""Keywords of programs are the flags of the commands: each exists, is typed, and gives the settings that the flag gives."""

from pathlib import Path

import pytest

from petrun import console
from petrun.api.calls import called_by_program, keyword_of, settings_of
from petrun.api.evaluation import EvaluateOptions
from petrun.api.training import ELSEWHERE, TrainOptions
from petrun.cli import evaluate, train
from petrun.errors import ConfigError, DeviceMemoryError


@pytest.mark.parametrize(
    ("command", "options", "elsewhere"),
    [(train.COMMAND, TrainOptions, ELSEWHERE), (evaluate.COMMAND, EvaluateOptions, ("base", "delta", "json"))],
)
def test_every_flag_is_a_keyword_and_every_keyword_a_flag(command, options, elsewhere):
    flags = {keyword_of(one) for one in command.given if one.option.flag}
    assert flags - set(elsewhere) == options.__annotations__.keys()
    assert set(elsewhere) <= flags


def test_keywords_give_the_settings_that_the_flags_give():
    """The record that the command line makes of the same flags is the reference."""
    typed = dict.fromkeys((one.name for one in train.COMMAND.given), None) | {
        "delta_rank": 4,
        "data_path": "a.jsonl,b.jsonl",
        "data_shuffle": True,
        "data_pack": True,
        "parallel": "dp=2,zero=1",
        "allow": "optim.lr,data.path",
        "optim_lr": 0.5,
        "dry_run": False,
        "preflight": False,
    }
    wanted = train.COMMAND.settings_of(typed)
    given = {"rank": 4, "data": ["a.jsonl", Path("b.jsonl")], "shuffle": False, "pack": True, "parallel": "dp=2,zero=1"}
    found = settings_of(train.COMMAND, "train", {**given, "allow": ["optim.lr", "data.path"], "lr": 0.5, "steps": None})
    assert found == wanted


def test_other_keys_are_set_as_by_set():
    found = settings_of(train.COMMAND, "train", {"settings": {"optim.beta2": 0.9, "data.ignore": ("a", "b")}})
    assert found.flags == {
        "optim.beta2": ("--set optim.beta2", 0.9),
        "data.ignore": ("--set data.ignore", ["a", "b"]),
    }


def test_unknown_keywords_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"petrun.train\(rnak=...\): there is no such setting. Did you mean rank"):
        settings_of(train.COMMAND, "train", {"rnak": 8})
    with pytest.raises(ConfigError, match="must be a mapping"):
        settings_of(train.COMMAND, "train", {"settings": ["optim.beta2=0.9"]})


def test_errors_of_the_card_are_petruns_and_quiet_ends_with_the_block(capsys):
    with pytest.raises(DeviceMemoryError), called_by_program(quiet=True):
        console.print("not shown")
        raise RuntimeError("Device(id:0) memory isn't enough and alloc failed")
    with pytest.raises(RuntimeError, match="of the user"), called_by_program():
        raise RuntimeError("of the user's own function")
    console.print("shown")
    assert capsys.readouterr().out == "shown\n"
