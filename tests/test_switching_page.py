"""The example on the page about switching runs as it stands."""

import re
from functools import partial

import pytest

from petrun.inference.generation import multi_delta
from petrun.parallel.context import setup
from tests.conftest import ROOT
from tests.deltas import make_delta
from tests.tiny import write_base


@pytest.mark.all_only
def test_the_example_runs(pynative, tmp_path, capsys, monkeypatch):
    # A graph takes a second to compile, and the text is the same.
    monkeypatch.setattr(multi_delta, "setup", partial(setup, pynative=True))
    page = (ROOT / "docs" / "switching.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    base = write_base(tmp_path / "llama", "llama")
    names = {
        "BASE": str(base),
        "ORDERS": str(make_delta(tmp_path / "orders.ckpt", base, "lora", rank=2)),
        "SHORT": str(make_delta(tmp_path / "short.ckpt", base, "ia3")),
    }
    exec(compile(code, "switching.md", "exec"), names)
    assert "length 8" in capsys.readouterr().out or names["stream"].answer.finish == "stop"
    assert len(names["session"].names) == 2 and names["stream"].answer.tokens <= 8
