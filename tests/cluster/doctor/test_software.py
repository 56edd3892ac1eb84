"""Python and its packages, and a MindSpore that works, that computes wrongly, and that does not even import."""

import sys

import pytest

from petrun.cluster.doctor import software
from tests.conftest import ROOT


def test_this_python_is_taken_and_the_range_is_that_of_the_package(monkeypatch):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (low, high) = software.PYTHONS
    assert asked == f">={low[0]}.{low[1]},<{high[0]}.{high[1]}" and software.python().verdict == "ok"
    monkeypatch.setattr(software, "PYTHONS", ((3, 8), (3, 9)))
    assert software.python().verdict == "blocks"


def test_packages_that_are_missing_or_too_new_are_named_with_the_command():
    wanted = ["numpy>=1.26,<2", "pydantic>=99", "no-such-package>=1", "only-on-mars; sys_platform == 'mars'"]
    new, missing, good = software.packages(wanted)
    assert (new.verdict, missing.verdict, good.verdict) == ("blocks", "blocks", "ok")
    assert new.mend == "pip install 'pydantic>=99'" and "no-such-package is not installed" in missing.text
    assert good.text.startswith("numpy 1.26")


def test_what_petrun_needs_is_here():
    assert [each.verdict for each in software.packages()] in (["ok"], ["note"])


@pytest.mark.parametrize(
    ("program", "failed"),
    [
        ("raise ImportError('libgomp: cannot allocate memory in static TLS block')", "ImportError: libgomp"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by signal 4"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_a_mindspore_that_does_not_work_does_not_end_the_examination(program, failed):
    found, why = software.probe(program)
    assert found == {} and failed in why
    (finding,) = software.mindspore(found, why)
    assert finding.verdict == "blocks" and "pip install --force-reinstall" in finding.mend


def test_what_the_process_found_is_read():
    text = 'print(\'noise\'); print(\'found {"mindspore": "2.10.0", "product": 4.0, "fused": false, "kernels": "no g++"}\')'
    found, why = software.probe(text)
    assert why == ""
    works, operators = software.mindspore(found, why)
    assert works.verdict == "ok" and (operators.verdict, operators.mend) == ("note", "apt-get install g++")
    (wrong,) = software.mindspore({**found, "product": 3.5}, "")
    assert wrong.verdict == "blocks" and "comes out as 3.5" in wrong.text


@pytest.mark.all_only
def test_the_mindspore_of_this_environment_works():
    found, why = software.probe()
    assert why == "" and found["product"] == 4.0 and "9.1" in found["cann"] and sys.version_info >= (3, 10)
