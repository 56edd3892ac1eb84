"""What a base says of itself in config.json, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.inference.assembly import base_path
from petrun.models.factory import is_factory, read_family
from petrun.models.folder import label_names
from petrun.tensors.sharded.ranks import root_of


@dataclass(frozen=True)
class BaseInfo:
    """What config.json says before any weight is read."""

    hf_config: dict[str, Any]
    tasks: tuple[str, ...]
    longest: int | None
    """Positions the model has for a row; None where it does not say."""
    tokens: int
    """Positions that the delta's virtual tokens take."""
    labels: tuple[str, ...]
    """Names of the classes of the base's own head; () for a base without one."""
    num_labels: int | None
    folder: Path | None


def read_base_info(config: RunConfig, tokens: int = 0) -> BaseInfo:
    """Read config.json and what follows from it, for a delta with so many virtual tokens. Raises ConfigError."""
    base = base_path(config.model)
    if is_factory(config.model.family):
        return BaseInfo({}, ("classify",), None, tokens, (), None, None)
    path = Path(config.model.config) if config.model.config else None
    raw, family, parsed = read_family(base, config.model.family, path)
    longest = getattr(parsed, "positions", None)
    if longest is not None:
        if longest - tokens < 2:
            raise ConfigError(
                f"{tokens} virtual tokens leave no room in the model's {longest} positions",
                hint="Give fewer: --tokens 20.",
            )
        longest -= tokens
    beside = path.parent if path else _folder_of(base)
    labels, count = ((), None) if config.model.fresh_head else own_head(raw)
    return BaseInfo(raw, family.tasks, longest, tokens, labels, count, beside)


def _folder_of(base: Path | None) -> Path | None:
    """Where a base's tokenizer lies: beside its file, or the folders of its ranks."""
    if base is None:
        return None
    base = root_of(base)
    return base.parent if base.is_file() else base


def own_head(raw: Mapping[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """(label names, classes) of a base that is a classifier already; names that transformers made up do not count."""
    table, stated = raw.get("id2label"), raw.get("num_labels")
    count = len(table) if isinstance(table, dict) and table else stated if isinstance(stated, int) else 2
    named = "ForSequenceClassification" in str(raw.get("architectures"))
    if not named and not (count == 1 and raw.get("problem_type") == "regression"):
        return (), None
    if count == 1:
        # It predicts a number; the name of its one output is no class.
        return (), 1
    names = label_names(raw, count)
    return (() if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names), count
