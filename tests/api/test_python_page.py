"""The page about programs as it stands: its code runs, and prints what the page says."""

import re
from functools import partial

import pytest

import petrun
from petrun.inference.generation import multi_delta
from petrun.parallel.context import setup
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.mark.all_only
def test_the_examples_run(place, pynative, capsys, monkeypatch):
    # A graph of the generator takes seconds to compile, and the text is the same.
    monkeypatch.setattr(multi_delta, "setup", partial(setup, pynative=True))
    names = {"BASE": "gpt2", "DATA": "orders.jsonl"}
    five_lines, errors = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in five_lines.splitlines()[1:] if line]) == 5
    exec(compile(five_lines, "python.md", "exec"), names)
    assert "runs/lora-1/lora.ckpt {'loss': " in capsys.readouterr().out
    exec(compile(errors, "python.md", "exec"), names)
    assert f"prints `{capsys.readouterr().out.strip()}`" in PAGE


def test_the_table_names_what_a_run_has():
    table = PAGE[PAGE.index("| attribute |") : PAGE.index("`petrun.train(resume=")]
    named = {
        name for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    known = {*petrun.RunRecord.__dataclass_fields__, *(n for n in vars(petrun.RunRecord) if not n.startswith("_"))}
    assert known - named == {"name"} and named <= known
