"""The flags that start ranks: taken out of the ranks' own command line, checked before anything starts."""

import typer

from petrun.cli.app import app
from petrun.cli.cluster import NAMES, rank_arguments

FLAGS = ["--" + name.replace("_", "-") for name in NAMES]


def ranks_line(line, added=()):
    command = typer.main.get_command(app).commands["train"]
    context = command.context_class(command, info_name="train")
    return rank_arguments(line, context, FLAGS, added)


def test_the_command_line_of_a_rank():
    line = ["--debug", "train", "x.yaml", "--cards", "2", "--rank", "4", "--grace=3", "--pack", "--max-restarts", "1"]
    assert ranks_line(line) == ["--debug", "train", "x.yaml", "--rank", "4", "--pack"]
    assert ranks_line(line, ["--out", "o"])[:4] == ["--debug", "train", "--out", "o"]
    # Another option's value may look like one of them, and what stands behind -- is no option.
    line = ["train", "--data", "--cards", "--set", "a=--cards", "--hosts=2", "--", "--cards"]
    assert ranks_line(line) == ["train", "--data", "--cards", "--set", "a=--cards", "--", "--cards"]
