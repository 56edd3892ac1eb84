"""The commands that a run prints at its end can be typed as they are."""

import shlex
from pathlib import Path
from types import SimpleNamespace

from petrun.config.load import load_run_config
from petrun.training.plan_text import next_commands


def test_the_commands_at_the_end_hold_for_any_path():
    base, data, place = "models/my base", "data/it's $(id).jsonl", Path("runs/a b;c")
    flags = {"model.base": ("--base", base), "data.path": ("--data", [data]), "data.eval_path": ("--eval-data", [data])}
    config = load_run_config(None, flags).config
    out = SimpleNamespace(path=place, delta=place / "lora.ckpt", delta_bytes=1000)
    _, *lines = next_commands(out, config, SimpleNamespace()).splitlines()
    commands = [shlex.split(line) for line in lines]
    assert [words[:2] for words in commands] == [["petrun", one] for one in ("eval", "predict", "merge", "inspect")]
    for words in commands[:3]:
        given = dict(zip(words[2::2], words[3::2], strict=False))
        assert (given["--base"], given["--delta"]) == (base, str(place))
    assert commands[0][-1] == data and commands[3] == ["petrun", "inspect", str(place)]
