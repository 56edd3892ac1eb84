"""Define what a section of settings is, and a setting with a flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from petrun.config.options import SettingField


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def setting(
    default: object, text: str, flag: str, panel: str, *, factory: Callable[[], object] | None = None, **bounds: Any
) -> SettingField:
    """A setting with a flag. `text`: what it means, for `--help`; `factory`: makes the default; `bounds`: as of pydantic's Field."""
    values = {"default_factory": factory} if factory is not None else {"default": default}
    return Field(**values, description=text, json_schema_extra={"flag": flag, "panel": panel}, **bounds)


def section_of(info: FieldInfo) -> type[Section] | None:
    """Return the section that a field of RunConfig is; None for a field that is a setting itself."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None
