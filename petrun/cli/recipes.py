"""`petrun recipes ls|show|cp`: the shipped recipes, as files the user owns."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from petrun import console
from petrun.cli.command import Command
from petrun.config.commands.train import recipe_choices
from petrun.config.options import argument, option
from petrun.errors import OutputError

app = typer.Typer(help="Shipped recipes: list them, show one, or copy one to edit.", no_args_is_help=True)


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """How the recipes are listed."""

    as_json: bool = option("--json", "Print one JSON object: name of a recipe -> its first line.", default=False)


@dataclass(frozen=True, kw_only=True)
class ShowSettings:
    """The recipe that is printed."""

    name: str = argument("Name from `petrun recipes ls`.", choices=recipe_choices)


@dataclass(frozen=True, kw_only=True)
class CopySettings:
    """The recipe that is copied, and where to."""

    name: str = argument("Name from `petrun recipes ls`.", choices=recipe_choices)
    target: str = argument("A folder, made where it does not exist, or a .yaml file.", default=".", shows_default=True)


def ls(settings: ListSettings) -> None:
    """List the shipped recipes with their first line.

    petrun recipes ls
    """
    from petrun.config.load import find_recipe, recipe_names

    lines = {
        name: find_recipe(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name in recipe_names()
    }
    if settings.as_json:
        console.print(json.dumps(lines, indent=2, ensure_ascii=False))
        return
    width = max(map(len, lines), default=0)
    for name, first in lines.items():
        console.print(f"{name.ljust(width)}  {first}")


def show(settings: ShowSettings) -> None:
    """Print a recipe.

    petrun recipes show bert/sst2-lora
    """
    from petrun.config.load import find_recipe

    console.write(find_recipe(settings.name).read_text(encoding="utf-8"))


def cp(settings: CopySettings) -> None:
    """Copy a recipe and the files beside it to a folder or file of yours. Nothing is overwritten.

    petrun recipes cp bert/sst2-lora mine/
    """
    from petrun.config.load import find_recipe

    source = find_recipe(settings.name)
    path = Path(settings.target)
    if path.is_dir() or path.suffix not in (".yaml", ".yml"):
        path = path / source.name
    # A recipe for a user's own model has the model and the script that makes its data beside it.
    beside = sorted(p for p in source.parent.iterdir() if p.is_file() and p.suffix != ".yaml")
    copies = {path: source, **{path.parent / p.name: p for p in beside}}
    taken = [str(p) for p in copies if p.exists()]
    if taken:
        raise OutputError(f"{', '.join(taken)} exists", hint="Give another folder; nothing was overwritten.")
    for to, original in copies.items():
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("x", encoding="utf-8") as file:
                file.write(original.read_text(encoding="utf-8"))
        except OSError as error:
            raise OutputError(
                f"cannot write {to}: {error.strerror}", hint="Give a folder that you may write."
            ) from error
    console.print(f"wrote {', '.join(map(str, copies))}; run it with: petrun train {shlex.quote(str(path))}")


COMMANDS: tuple[Command[Any], ...] = (
    Command(name="ls", settings=ListSettings, run=ls, options=("as_json",)),
    Command(name="show", settings=ShowSettings, run=show, options=("name",)),
    Command(name="cp", settings=CopySettings, run=cp, options=("name", "target")),
)
for command in COMMANDS:
    command.add_to(app)
