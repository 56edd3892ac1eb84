"""`petrun algorithms`: list the algorithms, or the settings of one."""

from __future__ import annotations

import inspect
import json
import re
import sys

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from petrun import console
from petrun.console import table
from petrun.delta import METHODS, Method, find_method
from petrun.delta.compose import split_names
from petrun.typing import JsonObject


def run(name: str | None, *, as_json: bool = False) -> None:
    """Print the list, or one algorithm's settings. Raises ConfigError for an unknown name."""
    if as_json:
        methods = METHODS.values() if name is None else [find_method(name)]
        console.print(json.dumps({method.name: facts(method) for method in methods}, indent=2, ensure_ascii=False))
        return
    if name is None:
        console.print(table([(method.name, _about(method)) for method in METHODS.values()]))
        console.print(
            "\nJoin bitfit, rows and r_drop with others: --algo lora+bitfit. Settings: petrun algorithms NAME"
        )
        return
    method = find_method(name)
    for part in split_names(method.name):
        console.print(f"{part}: {_about(METHODS[part])}")
        console.print("  arXiv " + ", ".join(_papers(METHODS[part])))
    merges = "yes" if method.merge is not None else "no, it is used beside its base"
    console.print(f"\nlearning rate {method.default_lr:g} where none is given; merges into the base: {merges}\n")
    console.print(table([(f"delta.{key}", _setting(field)) for key, field in method.config.model_fields.items()]))
    console.print(
        f"\nExample: petrun train --algo {method.name} --set delta.{next(iter(method.config.model_fields), 'KEY')}=VALUE ..."
    )


def facts(method: Method) -> JsonObject:
    """Return what there is to know of an algorithm, or of several that are joined, as JSON has it."""
    parts = [METHODS[part] for part in split_names(method.name)]
    return {
        "about": "; ".join(_about(part) for part in parts),
        "arxiv": [paper for part in parts for paper in _papers(part)],
        "lr": method.default_lr,
        "merges": method.merge is not None,
        "settings": {
            f"delta.{key}": {"about": field.description or "", "default": to_jsonable_python(_default(field))}
            for key, field in method.config.model_fields.items()
        },
    }


def _papers(method: Method) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\d{4}\.\d{5}", _document(method))))


def _document(method: Method) -> str:
    return inspect.cleandoc(sys.modules[method.config.__module__].__doc__ or "")


def _about(method: Method) -> str:
    """Return the first sentence of the algorithm's own file."""
    return _document(method).splitlines()[0].rstrip(".").partition(": ")[2] or _document(method).splitlines()[0]


def _setting(field: FieldInfo) -> str:
    default = _default(field)
    return f"{field.description or ''} [{'none' if default in (None, (), {}) else default}]"


def _default(field: FieldInfo) -> object:
    default: object = field.get_default(call_default_factory=True)
    return None if default is PydanticUndefined else default
