"""`petrun algorithms`: every method and every one of its settings is described."""

import json

import pytest

from petrun.cli.app import app
from petrun.commands.algorithms import run
from petrun.delta import METHODS
from petrun.errors import ConfigError


def test_the_list(capsys):
    app(args=["algorithms"], prog_name="petrun", standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(METHODS)]] == list(METHODS)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines[: len(METHODS)])


@pytest.mark.parametrize("name", list(METHODS))
def test_settings_of_each(name, capsys):
    run(name)
    shown = capsys.readouterr().out
    described = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("delta.")}
    assert set(described) == {f"delta.{key}" for key in METHODS[name].config.model_fields}
    assert all(len(text) > 12 for text in described.values()), described
    assert f"{METHODS[name].default_lr:g}" in shown
    assert ("merges into the base: yes" in shown) == (METHODS[name].merge is not None)
    if name != "full":
        assert "arXiv 2" in shown or "arXiv 1" in shown


def test_a_composition_shows_both(capsys):
    run("r_drop+lora")
    shown = capsys.readouterr().out
    assert "2106.09685" in shown and "2106.14448" in shown and "delta.kl_weight" in shown and "delta.rank " in shown


def test_what_programs_read(capsys):
    run(None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(METHODS)
    for name, facts in found.items():
        assert {*facts["settings"]} == {f"delta.{key}" for key in METHODS[name].config.model_fields}
        assert (facts["lr"], facts["merges"]) == (METHODS[name].default_lr, METHODS[name].merge is not None)
    assert found["lora"]["settings"]["delta.rank"]["default"] == 8 and "2106.09685" in found["lora"]["arxiv"]
    run("r_drop+lora", as_json=True)
    (joined,) = json.loads(capsys.readouterr().out).values()
    assert {"delta.kl_weight", "delta.rank"} <= set(joined["settings"]) and len(joined["arxiv"]) >= 2


def test_an_unknown_one():
    with pytest.raises(ConfigError, match="Did you mean adapter"):
        run("adaptor")
