"""docs/reference.md is what scripts/make_reference.py writes, and says all that the program declares."""

import importlib.util
import re

import pytest
import typer
from pydantic import Field

from petrun.cli.app import app
from petrun.config.section import Section
from petrun.delta import METHODS
from tests.conftest import ROOT
from tests.test_docs import commands, is_setting


@pytest.fixture(scope="module")
def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(make_reference):
    old = "write it again: python scripts/make_reference.py"
    assert make_reference.PAGE.read_text(encoding="utf-8") == make_reference.page(), old


def test_every_command_option_and_algorithm_is_there(make_reference):
    """The names come from Typer's own objects, which the script does not read."""
    page = make_reference.PAGE.read_text(encoding="utf-8")
    parts = dict(part.split("\n", 1) for part in page.split("\n### petrun ")[1:])
    groups = set(typer.main.get_command(app).commands) - set(parts)
    for words, options in commands().items():
        if words and words not in groups:
            long = {name for name in options if name.startswith("--")}
            # The other side of a switch that sets a key stands with the key.
            missing = {name for name in long if not re.search(rf"{name}\b", parts[words]) and f"/{name}`" not in page}
            assert missing <= {"--help", "--debug", "--quiet"}, f"{words}: {missing}"
    assert not [name for name in METHODS if f"\n### {name}\n" not in page]
    assert is_setting("optim.beta2") and "`optim.beta2`" in page and "`delta.orth_weight`" in page


def test_a_number_needs_its_unit(make_reference):
    """Given a setting that is a number and of which the script knows no unit, then it says where to name one."""

    class Made(Section):
        wait: int = Field(3, description="how long")

    with pytest.raises(SystemExit, match=r"data\.wait is a number: name its unit"):
        make_reference.setting_row("data.wait", Made.model_fields["wait"])


def test_settings_are_written_as_recipes_have_them(make_reference):
    info = Section.model_fields | make_reference.RunConfig.model_fields["optim"].annotation.model_fields
    assert make_reference.setting_row("optim.beta1", info["beta1"])[:4] == [
        "`optim.beta1`",
        "",
        "float, >= 0, &lt; 1",
        "`0.9`",
    ]
    assert make_reference.setting_row("optim.warmup", info["warmup"])[4] == "share of the steps, or steps"
