"""`petrun algorithms`: list the algorithms, or the settings of one."""

from __future__ import annotations

import inspect
import re
import sys

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from petrun import console
from petrun.console import table
from petrun.delta import METHODS, Method, find_method
from petrun.delta.compose import split_names


def run(name: str | None) -> None:
    """Print the list, or one algorithm's settings. Raises ConfigError for an unknown name."""
    if name is None:
        console.print(table([(method.name, _about(method)) for method in METHODS.values()]))
        console.print(
            "\nJoin bitfit, rows and r_drop with others: --algo lora+bitfit. Settings: petrun algorithms NAME"
        )
        return
    method = find_method(name)
    for part in split_names(method.name):
        console.print(f"{part}: {_about(METHODS[part])}")
        console.print("  arXiv " + ", ".join(dict.fromkeys(re.findall(r"\d{4}\.\d{5}", _document(METHODS[part])))))
    merges = "yes" if method.merge is not None else "no, it is used beside its base"
    console.print(f"\nlearning rate {method.default_lr:g} where none is given; merges into the base: {merges}\n")
    console.print(table([(f"delta.{key}", _setting(field)) for key, field in method.config.model_fields.items()]))
    console.print(
        f"\nExample: petrun train --algo {method.name} --set delta.{next(iter(method.config.model_fields), 'KEY')}=VALUE ..."
    )


def _document(method: Method) -> str:
    return inspect.cleandoc(sys.modules[method.config.__module__].__doc__ or "")


def _about(method: Method) -> str:
    """Return the first sentence of the algorithm's own file."""
    return _document(method).splitlines()[0].rstrip(".").partition(": ")[2] or _document(method).splitlines()[0]


def _setting(field: FieldInfo) -> str:
    default: object = field.get_default(call_default_factory=True)
    shown = "none" if default in (None, (), {}, PydanticUndefined) else default
    return f"{field.description or ''} [{shown}]"
