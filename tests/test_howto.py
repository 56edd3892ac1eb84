"""The tutorial and the how-to pages, in both languages, as they stand: their commands run in their order, and print what the pages show."""

import ast
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

from scripts.console_pages import Ran, programs, run, steps, view, without_figures
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in (DOCS / "zh").glob("*.md"))
HOWTO = [name for name in PAGES if name != "troubleshooting.md"]
KNOWN = re.compile(r"(petrun|python|cp|mv|curl|kill|pip) ")
QUICK = ("petrun data", "petrun job", "petrun ranktable", "petrun recipes", "cp ", "python make_table.py")
"""Commands that take a second or two: they run by default, the others with --all."""

each_page = pytest.mark.parametrize("name", HOWTO)


def both(name):
    """The page in English and in Chinese."""
    return DOCS / name, DOCS / "zh" / name


@pytest.fixture
def here(tmp_path, outside):
    """here(page, steps) -> what the commands did, in a folder with a view of the clone; that one failed is an error."""
    folder = tmp_path / "here"
    own = view(folder, ROOT, Path(sys.executable))
    environment = {**os.environ, **outside, **own, "PATH": f"{own['PATH']}:{os.environ['PATH']}"}

    def call(page, asked):
        ran = run(page, folder, environment, asked)
        assert ran[-1].code == 0, f"{ran[-1].step.command}\n{ran[-1].printed[-3000:]}"
        return ran

    return call


@each_page
def test_both_languages_have_the_same_commands_outputs_and_programs(name):
    english, chinese = map(steps, both(name))
    assert english == chinese and english
    assert programs(both(name)[0]) == programs(both(name)[1])
    assert not [step.command for step in english if not KNOWN.match(step.command)]


@pytest.mark.parametrize("name", PAGES)
def test_each_page_links_the_other_language(name):
    english, chinese = (page.read_text(encoding="utf-8") for page in both(name))
    assert f"](zh/{name})" in english and f"](../{name})" in chinese


@pytest.mark.parametrize("name", ["own-data.md", "cluster.md"])
def test_quick_commands_print_what_the_page_shows(name, here):
    asked = [step for step in steps(DOCS / name) if step.command.startswith(QUICK)]
    ran = here(DOCS / name, asked)
    assert len(ran) == len(asked) >= 4
    assert not {one.step.command: one.lacking for one in ran if one.lacking}


@pytest.mark.all_only
@each_page
def test_all_commands_print_what_the_page_shows(name, here):
    asked = steps(DOCS / name)
    if "curl " in "".join(step.command for step in asked) and not shutil.which("curl"):
        pytest.skip("needs curl")
    assert not {one.step.command: one.lacking for one in here(DOCS / name, asked) if one.lacking}


def test_what_a_page_shows_is_compared_without_its_figures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ petrun eval \\\n    --delta D\nloss  3.85 ... better\n...\nsaved it\n$ petrun plan\n```\n"
    )
    first, second = steps(page)
    assert first.command == "petrun eval --delta D" and second.shown == ()
    printed = "loss 17.1  0.2  -3.1 better\nother\nsaved it\n"
    assert not Ran(step=first, code=0, printed=printed, seconds=1.0).lacking
    assert without_figures("digest 4ff2f60428d2e880, 1,024 rows") == "digest #, # rows"
    worse = Ran(step=first, code=0, printed="loss 17.1  0.2  -3.1 worse\n", seconds=1.0)
    assert worse.lacking == ["loss  3.85 ... better", "saved it"]


def test_a_command_that_fails_is_the_last(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\n# a.py\nprint(3)\n```\n```console\n$ cat a.py\n$ printf x\n$ false\n$ echo no\n```\n")
    ran = run(page, tmp_path, dict(os.environ))
    assert [(one.code, one.printed) for one in ran] == [(0, "# a.py\nprint(3)\n\n"), (0, "x\n"), (1, "\n")]


@cache
def messages():
    """The texts of the program that are no docstrings, in one."""
    found = []
    for path in (ROOT / "petrun").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
                found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_troubleshooting_page_are_petruns():
    """The words in the first column of its tables stand in a text that the program prints, and both languages have the same."""
    english, chinese = (
        re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
        for page in both("troubleshooting.md")
    )
    assert len(english) >= 70 and english == chinese
    assert not [words for words in english if words not in messages()]


@each_page
def test_messages_that_a_page_names_are_petruns(name):
    for page, heading in zip(both(name), ("What can go wrong", "可能遇到的问题"), strict=True):
        _, _, part = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
        named = re.findall(r"^\| `([^`]+)` \|", part.partition("\n## ")[0], re.MULTILINE)
        assert not [words for words in named if words not in messages()]
