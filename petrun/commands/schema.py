"""`petrun schema`: write the JSON Schema of recipes."""

from __future__ import annotations

import json

from petrun import console
from petrun.config.commands.schema import SchemaSettings
from petrun.config.json_schema import recipe_schema
from petrun.tensors.output import write_new


def run(settings: SchemaSettings) -> None:
    """Print the schema, or write it to a file. Raises OutputError."""
    text = json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
    if settings.out is None:
        console.write(text)
        return
    path = write_new("--out", settings.out, text, settings.force, ())
    console.print(f"wrote {path}; the first line of a recipe that is to be checked by it:")
    console.print(f"# yaml-language-server: $schema={path}")
