"""Commands made from tables: what a record and the schema say becomes options, and what was typed becomes a record."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import typer
from typer.testing import CliRunner

from petrun.cli import (
    data,
    delta,
    embed,
    evaluate,
    generate,
    job,
    merge,
    predict,
    ranktable,
    rehearse,
    reshard,
    resume,
    serve,
    train,
    vocab,
)
from petrun.cli import inspect as inspect_command
from petrun.cli.command import Command, SchemaKey
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.flags import flag_of
from petrun.config.options import RunKeys, argument, like, option, options_of
from petrun.delta import METHODS
from petrun.errors import ConfigError

COMMANDS = [
    *(
        train.COMMAND,
        resume.COMMAND,
        rehearse.COMMAND,
        job.COMMAND,
        evaluate.COMMAND,
        predict.COMMAND,
        generate.COMMAND,
    ),
    *(
        serve.COMMAND,
        merge.MERGE,
        merge.UNMERGE,
        reshard.COMMAND,
        inspect_command.COMMAND,
        *data.COMMANDS,
        *vocab.COMMANDS,
        embed.COMMAND,
        *delta.COMMANDS,
        *ranktable.COMMANDS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Settings(RunKeys):
    file: str = argument("A file.")
    base: str | None = like("model.base", "Another help.")
    names: tuple[str, ...] = option("--names", "Names.", default=(), separated=True)
    many: Sequence[str] = option("--many", "Repeatable.", default=())
    level: int = option("--level", "From 0 to 1.", default=1, low=0, high=1)
    loud: bool = option("--loud", "Louder.", default=False)


OPTIONS = (
    "file",
    "base",
    "names",
    "many",
    "level",
    "loud",
    "sets",
    "optim.lr",
    "data.path",
    "data.shuffle",
    "data.pack",
    "parallel",
)


def given(*line, options=OPTIONS):
    """The record that a command line gives."""
    found = []

    def run(settings: Settings) -> None:
        """Help of the command."""
        found.append(settings)

    app = typer.Typer(add_completion=False)
    Command(name="one", settings=Settings, run=run, options=options).add_to(app)
    done = CliRunner().invoke(app, list(line))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return found[0] if found else done.output


def test_what_is_not_typed_keeps_the_default_of_the_record():
    assert given("x") == Settings(file="x")


def test_fields_of_the_record():
    line = (
        "x",
        "--base",
        "b",
        "--names",
        "a, b",
        "--many",
        "1",
        "--many",
        "2",
        "--level",
        "0",
        "--loud",
        "--set",
        "k=v",
    )
    assert given(*line) == Settings(
        file="x", base="b", names=("a", "b"), many=("1", "2"), level=0, loud=True, sets=("k=v",)
    )


def test_keys_of_the_schema_are_kept_with_the_flag_that_gave_them():
    assert given("x", "--lr", "0.5", "--data", "a,b", "--no-shuffle", "--no-pack").flags == {
        "optim.lr": ("--lr", 0.5),
        "data.path": ("--data", ["a", "b"]),
        "data.shuffle": ("--no-shuffle", False),
        "data.pack": ("--pack", False),
    }


def test_a_layout_is_parsed_into_its_keys():
    assert given("x", "--parallel", "dp=2,tp=4").flags == {
        "parallel.dp": ("--parallel", 2),
        "parallel.tp": ("--parallel", 4),
    }
    assert given("x", "--parallel", "auto").flags == {"parallel.auto": ("--parallel", True)}
    with pytest.raises(ConfigError, match="--parallel 'tq=4': no key of a layout"):
        given("x", "--parallel", "tq=4")


def test_a_value_of_another_type_is_refused():
    assert "'--lr'" in given("x", "--lr", "x") and "--level" in given("x", "--level", "2")


def test_a_command_may_say_its_own_help():
    shown = given("--help", options=(SchemaKey(name="data.task", help="Own words.", panel="Own panel"), "file"))
    assert "Own words." in shown and "Own panel" in shown and "Help of the command." in shown


def test_a_name_that_nobody_knows_is_an_error():
    for name in ("other", "optim.other", "optim.beta1"):
        with pytest.raises(KeyError):
            given("x", options=("file", name))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_field_with_a_flag_is_an_option_of_its_command(command):
    names = {item if isinstance(item, str) else item.name for item in command.options}
    assert set(options_of(command.settings)) <= names
    flags = [one.option.flag for one in command.given if one.option.flag]
    assert len(flags) == len(set(flags))


def test_flags_of_algorithms_are_settings_of_an_algorithm():
    for key in ("rank", "alpha", "dropout", "tokens", "target", "exclude"):
        assert any(key in method.config.model_fields for method in METHODS.values())
        assert flag_of(f"delta.{key}")[1].flag == f"--{key}"


def test_a_run_that_is_resumed_gets_everything_that_was_typed():
    settings = resume.ResumeSettings(
        run_folder="runs/a",
        allow=("optim.lr",),
        sets=("a=b",),
        flags={"train.keep_states": ("--keep", 3)},
        cards=2,
        grace=1.0,
    )
    training = settings.training()
    assert training.resume == "runs/a" and training.allow == ("optim.lr",) and training.sets == ("a=b",)
    assert training.flags == settings.flags and training.launch_flags() == {"--cards": 2, "--grace": 1.0}
    assert all(getattr(training, name) == getattr(settings, name) for name in LAUNCH_FIELDS)


def test_rehearse_takes_no_option_that_it_would_not_read():
    flags = {one.option.flag for one in rehearse.COMMAND.given}
    assert not flags & {"--preflight", "--dry-run", "--resume", "--out", "--hosts", "--device", "--keep"}
    assert {"--cards", "--parallel", "--spike", "--level", "--strategy-out"} <= flags
