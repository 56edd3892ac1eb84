"""What is printed: where it goes, that nothing waits in a buffer, and that ranks but the first are silent."""

import io
import subprocess
import sys
import time

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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_long_work_is_shown_with_its_seconds_and_taken_away_before_a_line(monkeypatch):
    terminal, lines = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", lines)
    monkeypatch.setattr(console._Clock, "_PAUSE_SECONDS", 0.02)
    with console.working("loading the base"):
        with console.working("compiling"):
            time.sleep(0.2)
        assert "\r\x1b[Kcompiling 0 s" in terminal.getvalue()
        time.sleep(0.2)
        console.print("a line")
        shown = terminal.getvalue()
        assert "\r\x1b[Kloading the base 0 s" in shown and shown.endswith("\r\x1b[K") and lines.getvalue() == "a line\n"
    time.sleep(0.1)
    ended = terminal.getvalue()
    time.sleep(0.1)
    assert terminal.getvalue() == ended


def test_long_work_is_silent_elsewhere_and_on_a_terminal_that_wants_results_alone(monkeypatch, capsys, results_only):
    with console.working("compiling"):
        time.sleep(0.01)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(console._Clock, "_PAUSE_SECONDS", 0.01)
    with console.working("compiling"):
        time.sleep(0.1)
    assert terminal.getvalue() == "" and capsys.readouterr() == ("", "")


@pytest.fixture
def results_only():
    console.set_results_only()
    yield
    console.set_results_only(False)


def test_results_alone_leave_out_what_is_told_of_the_work(results_only, capsys):
    console.tell("wrote a file")
    console.print("loss 1.5")
    assert capsys.readouterr().out == "loss 1.5\n"
