"""What is printed: where it goes, that nothing waits in a buffer, and that ranks but the first are silent."""

import io
import subprocess
import sys

import pytest

from petrun import console


@pytest.fixture
def quiet():
    console.set_quiet()
    yield
    console.set_quiet(False)


def test_lines_and_text_go_where_they_belong(capsys):
    console.print("a")
    console.write("b")
    console.print()
    console.print_to_stderr("c")
    assert capsys.readouterr() == ("a\nb\n", "c\n")


def test_an_error_has_its_way_out_on_a_line_of_its_own(capsys):
    console.print_error("no file", "Give one.")
    console.print_error("ZeroDivisionError: x", label="internal error")
    assert capsys.readouterr().err == "error: no file\nGive one.\ninternal error: ZeroDivisionError: x\n"


def test_the_label_of_an_error_is_red_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    console.print_error("no file")
    assert terminal.getvalue() == "\x1b[31m\x1b[1merror: \x1b[0mno file\n"


def test_a_quiet_rank_prints_errors_alone(quiet, capsys):
    console.print("a")
    console.write("b")
    console.print_to_stderr("c")
    assert capsys.readouterr() == ("", "c\n")


def test_text_is_there_before_the_line_ends():
    code = "from petrun import console\nconsole.write('a')\nimport os\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "a"


def test_tables_are_padded_to_the_longest_name():
    assert console.table([("a", "1"), ("long", "2")]) == "a     1\nlong  2"
    assert console.columns([("a", "bb", "c"), ("long", "b", "")]) == "a     bb  c\nlong  b"
