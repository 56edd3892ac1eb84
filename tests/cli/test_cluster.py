"""The flags that start ranks: taken out of the ranks' own command line, checked before anything starts."""

from petrun.cli.cluster import rank_arguments
from petrun.cli.train import COMMAND
from petrun.config.commands.launch import LaunchOptions
from petrun.config.options import options_of

FLAGS = [how.flag for how in options_of(LaunchOptions).values()]


def ranks_line(line, added=()):
    return rank_arguments(line, COMMAND, FLAGS, added)


def test_the_command_line_of_a_rank():
    line = ["--debug", "train", "x.yaml", "--cards", "2", "--rank", "4", "--grace=3", "--pack", "--max-restarts", "1"]
    assert ranks_line(line) == ["--debug", "train", "x.yaml", "--rank", "4", "--pack"]
    assert ranks_line(line, ["--out", "o"])[:4] == ["--debug", "train", "--out", "o"]
    # Another option's value may look like one of them, and what stands behind -- is no option.
    line = ["train", "--data", "--cards", "--set", "a=--cards", "--hosts=2", "--", "--cards"]
    assert ranks_line(line) == ["train", "--data", "--cards", "--set", "a=--cards", "--", "--cards"]
