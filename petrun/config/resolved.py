"""Holds the settings of a run with the origin of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from petrun.config.schema import RunConfig


@dataclass(frozen=True)
class Resolved:
    """A run's configuration, and for every dotted key that is not at its default, where the value came from."""

    config: RunConfig
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Nobody changes where a value came from without making another record.
        object.__setattr__(self, "origins", MappingProxyType(dict(self.origins)))

    def given(self, key: str) -> bool:
        """Return whether the user set the key: in a recipe, by a flag, or by --set."""
        return key in self.origins and not self.origins[key].startswith(("default", "embedded", "inferred"))

    def value(self, key: str) -> object:
        """Return the value of a dotted key."""
        section, _, leaf = key.rpartition(".")
        return getattr(getattr(self.config, section) if section else self.config, leaf)

    def settle(self, values: Mapping[str, object], origin: str = "") -> Resolved:
        """Return the settings with these values, by dotted key. `origin`: where they came from; "": what is noted already."""
        config = self.config
        for key, value in values.items():
            section, _, leaf = key.rpartition(".")
            if section:
                leaf, value = section, getattr(config, section).model_copy(update={leaf: value})
            config = config.model_copy(update={leaf: value})
        return Resolved(config, {**self.origins, **dict.fromkeys(values, origin)} if origin else self.origins)


def as_typed(key: str, origins: Mapping[str, str]) -> str:
    """A setting by the flag that gave it, or by its key and the recipe that did."""
    origin = origins.get(key, "")
    if not origin:
        return key
    return origin if origin.startswith("--") else f"{origin}, {key}"
