"""Open deltas of any tool, and give them petrun's names, complete settings and a manifest that fits their base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from petrun.algebra.derived import adopted
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import Delta, read_delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.config.options import DeltaSources
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError
from petrun.inference.assembly import (
    require_alpha_used,
    require_matching_base,
    require_matching_family,
    strategy_path,
    with_form_of,
)
from petrun.inference.stored_base import StoredBase, stored_base
from petrun.interop.convert import trained_task
from petrun.models.base import BaseContent


@dataclass(frozen=True)
class WeightedPath:
    """A path and a weight, typed as `a.ckpt:0.7`."""

    path: str
    weight: float


def weighted_path(text: str) -> WeightedPath:
    """Parse `PATH:WEIGHT`, or a path alone, of weight 1. An existing path with a colon is a path. Raises ConfigError."""
    path, mark, number = text.rpartition(":")
    if not mark or Path(text).expanduser().exists():
        return WeightedPath(text, 1.0)
    try:
        weight = float(number)
    except ValueError:
        raise ConfigError(f"{text}: {number!r} is not a weight", hint="Example: runs/a.ckpt:0.7") from None
    if not math.isfinite(weight) or weight == 0.0:
        raise ConfigError(f"{text}: a weight is a finite number other than 0")
    return WeightedPath(path, weight)


def first_task(deltas: Sequence[Delta]) -> str | None:
    """Return the task of the first delta that says it."""
    return next(filter(None, map(trained_task, deltas)), None)


class DeltaOpener:
    """Opens deltas in petrun's names; the base is opened only where it is needed."""

    def __init__(self, sources: DeltaSources, model: StoredBase | None = None) -> None:
        """`model`: the base, where it is open already."""
        self.sources = sources
        self._base = model
        self._content: BaseContent | None = None
        self._task: str | None = None

    @property
    def base(self) -> StoredBase:
        if self._base is None:
            self._base = stored_base(self._model, self._task)
        return self._base

    @property
    def _model(self) -> ModelConfig:
        given = self.sources
        known = {"base": given.base, "family": given.family, "base_strategy": given.base_strategy, "quant": given.quant}
        try:
            return ModelConfig.model_validate(known)
        except ValidationError:
            raise ConfigError(
                f"--base-bits {given.quant}: is no form of a base", hint="It is int8 (or 8), nf4 (or 4), or none."
            ) from None

    def use_form_of(self, deltas: Sequence[Delta]) -> None:
        """Hold the base as these deltas were trained on it: with the head of their task, and, where the user does not say how, in their
        form."""
        if self._base is not None:
            return
        self._task = first_task(deltas)
        if self.sources.quant is None:
            model = with_form_of(self._model, deltas)
            if model.quant is not None:
                self._base = stored_base(model, self._task)

    def content(self) -> BaseContent:
        """What the base is recognised by. The first access reads every tensor."""
        if self._content is None:
            self._content = self.base.content()
        return self._content

    def require_own_base(self, delta: Delta) -> None:
        """Raises DeltaError for a delta of another base; where the user says in which bits the base is held, those may be others."""
        require_matching_base(delta, self.content(), self.sources.quant is not None)

    def __call__(self, *paths: str) -> list[Delta]:
        """Return the deltas with complete settings and a manifest. A delta of another tool is fitted to the base, and gets its digest.

        Raises DeltaError, also for a base that is not the delta's own; ModelError; ConfigError for --alpha that none of them needs.
        """
        read = [read_delta(Path(path).expanduser(), strategy_path(self.sources.delta_strategy)) for path in paths]
        require_alpha_used(self.sources.alpha, read, paths[0])
        if self.sources.base is not None:
            self.use_form_of(read)
        else:
            self._task = first_task(read)
        return [self._fitted(delta) for delta in read]

    def _fitted(self, given: Delta) -> Delta:
        if given.manifest is not None:
            if self.sources.base is not None:
                require_matching_family(given, self.base.raw)
                self.require_own_base(given)
            return self._complete(given)
        base, alpha = self.base, self.sources.alpha if given.origin == "mindpet" else None
        arrays = base.arrays()
        fitted = self._with_heads(base.fit(given, alpha), arrays)
        identity = base.identity(arrays, self.content())
        model_type = base.raw.get("model_type", base.family)
        fitted = self._complete(fitted)
        return replace(fitted, manifest=adopted(fitted, identity, base.family, model_type, base.raw))

    @staticmethod
    def _complete(delta: Delta) -> Delta:
        _, config = method_of(delta.algo, delta.config, delta.path)
        return replace(delta, config=config.model_dump(mode="json"))

    def _with_heads(self, delta: Delta, arrays: BaseArrays) -> Delta:
        """Add the base's head where a delta of another tool has none: petrun's own deltas always hold the task's head."""
        patterns = self.base.sites.trained_heads if self.base.sites else ()
        heads = [name for name in self.base.names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        lacking = {name: arrays[name] for name in heads if name not in delta.tensors and name in arrays}
        if not lacking:
            return delta
        tensors = {**{name: delta.tensors[name] for name in delta.tensors}, **lacking}
        return replace(delta, tensors=tensors, digest=arrays_digest(tensors))
