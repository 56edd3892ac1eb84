"""The tutorial, in both languages, as it stands: its commands run in their order, and its rows and its program are those that it shows."""

import re
import shlex

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "zh" / "tutorial.md"]
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page):
    """The lines of the page's shell blocks that begin with $, those ended by a backslash joined."""
    text = "\n".join(blocks(page, "console"))
    return [line[2:] for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.startswith("$ ")]


def test_both_languages_have_the_same_commands_and_programs():
    english, chinese = PAGES
    assert commands(english) == commands(chinese) and len(commands(english)) >= 9
    assert blocks(english, "python") == blocks(chinese, "python") and len(blocks(english, "python")) == 2


@pytest.mark.all_only
def test_the_tutorial_runs(tmp_path, petrun, monkeypatch, outside):
    """Every command ends well; the rows are made by the page's first program, and its last one answers."""
    monkeypatch.chdir(tmp_path)
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    program, rows = blocks(PAGES[0], "python")
    for line in commands(PAGES[0]):
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "make_rows.py"]:
            exec(compile(rows, "make_rows.py", "exec"), {})
        elif words[0] == "petrun":
            done = petrun(words[1:])
            assert done.code == 0, f"{line}\n{done.err}"
    exec(compile(program, "tutorial.md", "exec"), {})


def test_messages_of_the_troubleshooting_page_are_petruns():
    """The words in the first column of the first two tables stand in the source."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "petrun").rglob("*.py"))
    named = re.findall(r"^\| `([^`]+)` \|", TROUBLE, re.MULTILINE)
    assert len(named) >= 15
    assert not [words for words in named if words not in source]
