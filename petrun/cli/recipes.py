"""`petrun recipes ls|show|cp`: the shipped recipes, as files the user owns."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from petrun.cli.options import complete_recipe
from petrun.errors import OutputError

Name = Annotated[str, typer.Argument(help="Name from `petrun recipes ls`.", autocompletion=complete_recipe)]

app = typer.Typer(help="Shipped recipes: list them, show one, or copy one to edit.", no_args_is_help=True)


@app.command("ls")
def ls() -> None:
    """List the shipped recipes with their first line."""
    from petrun.config.load import find_recipe, recipe_names

    names = recipe_names()
    width = max(map(len, names), default=0)
    for name in names:
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        typer.echo(f"{name.ljust(width)}  {first}")


@app.command("show")
def show(name: Name) -> None:
    """Print a recipe."""
    from petrun.config.load import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command("cp")
def cp(
    name: Name,
    target: Annotated[str, typer.Argument(help="A folder, made where it does not exist, or a .yaml file.")] = ".",
) -> None:
    """Copy a recipe, and the files that lie beside it, to a place of yours. Nothing is overwritten."""
    from petrun.config.load import find_recipe

    source = find_recipe(name)
    path = Path(target)
    if path.is_dir() or path.suffix not in (".yaml", ".yml"):
        path = path / source.name
    # A model of one's own and the maker of its data lie beside its recipe.
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
    typer.echo(f"wrote {', '.join(map(str, copies))}; run it with: petrun train {shlex.quote(str(path))}")
