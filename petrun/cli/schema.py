"""`petrun schema`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.schema import SchemaSettings


def schema(settings: SchemaSettings) -> None:
    """Print the JSON Schema of recipes: an editor checks and completes a YAML file with it.

    petrun schema --out recipe.schema.json
    """
    from petrun.commands.schema import run

    run(settings)


COMMAND = Command(name="schema", settings=SchemaSettings, run=schema, options=("out", "force"))
