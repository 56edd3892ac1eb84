"""Every command's help has an example, which names options that the command has."""

import shlex

import pytest
import typer

from petrun.cli.app import app
from tests.test_docs import problem_of


def commands(command, words=()):
    """(words, command) for every command that does something by itself."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield words, command
    for name, each in inner.items():
        yield from commands(each, (*words, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_help_has_an_example_that_holds(words, command):
    lines = [line.strip() for line in (command.help or "").splitlines()]
    examples = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"petrun {' '.join(words)}")]
    # Behind -- are options of another command.
    examples = [each[: each.index("--")] if "--" in each else each for each in examples]
    assert examples, "no example in the help"
    assert not [problem for problem in map(problem_of, examples) if problem]
