"""The settings of a recipe as a JSON Schema: editors check and complete a YAML file with it."""

from __future__ import annotations

from typing import Any

from petrun.config.schema import RunConfig
from petrun.typing import JsonObject

_TEXTS = ("description", "petrun_version", "started_in")
"""Keys of a recipe, or of a run.yaml, beside the settings."""


def recipe_schema() -> JsonObject:
    """Return the schema: every key with its type, bounds, choices, default and meaning; those of `delta` by the algorithm."""
    from petrun.delta import METHODS

    schema = RunConfig.model_json_schema()
    properties = schema["properties"]
    properties.pop("delta", None)
    definitions = schema.setdefault("$defs", {})
    for name, method in METHODS.items():
        own = method.config.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= own.pop("$defs", {})
        definitions[f"delta_{name}"] = {**own, "title": f"delta settings of {name}"}
    names = list(METHODS)
    properties["algo"] = {
        **properties["algo"],
        "description": "Delta algorithm; several joined by +, as in lora+bitfit.",
        "examples": names,
    }
    properties["delta"] = {"type": "object", "description": "Settings of the algorithm: `petrun algorithms NAME`."}
    properties |= {name: {"type": "string"} for name in _TEXTS}
    properties["origins"] = {"type": "object", "description": "Where each value of a run.yaml came from; not read."}
    loosened: JsonObject = _loosen(schema)
    loosened.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **loosened,
        "title": "petrun recipe",
        "patternProperties": {r"^\w+\.\w+$": {}},
        "allOf": [_branch(name) for name in names],
    }


def _branch(name: str) -> JsonObject:
    """Return the rule that `delta` holds the settings of the algorithm that `algo` names, lora where it names none."""
    asked: JsonObject = {"properties": {"algo": {"const": name}}}
    condition = asked if name == "lora" else {**asked, "required": ["algo"]}
    return {"if": condition, "then": {"properties": {"delta": {"$ref": f"#/$defs/delta_{name}"}}}}


def _loosen(node: Any) -> Any:
    """Return the schema as recipes are read: one text may stand for a list of them, a duration is text or seconds, and null is no value."""
    if isinstance(node, list):
        return [_loosen(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _loosen(value) for key, value in node.items()}
    if "properties" in node:
        found["properties"] = {key: _optional(key, value) for key, value in found["properties"].items()}
    return found


def _optional(key: str, value: JsonObject) -> JsonObject:
    """Return a property that may also be null, and a list that may also be one text."""
    about: JsonObject = {name: value[name] for name in ("description", "default", "title", "examples") if name in value}
    kinds = value.get("anyOf") or [{name: part for name, part in value.items() if name not in about}]
    more: list[JsonObject] = []
    if any(kind.get("type") == "array" for kind in kinds) or key == "max_seconds":
        more.append({"type": "string"})
    if not any(kind.get("type") == "null" for kind in kinds):
        more.append({"type": "null"})
    return {**about, "anyOf": [*kinds, *more]}
