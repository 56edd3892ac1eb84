"""What every kind of peft adapter file shares: modules become parameters, heads are read whole, and all that does not fit is told at
once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.lazy import LazyTensors
from petrun.checkpoint.peft_config import Targets
from petrun.errors import DeltaError, perhaps
from petrun.graph.sites import Sites
from petrun.models.base import StoredName

PREFIX = "base_model.model."
_LISTED = 20


class Reading:
    """Finds the net's parameters behind an adapter's names; collects what does not fit.

    `names`: net parameter -> its Hugging Face name; `prefixes`: what a module's path may lack (an adapter trained on BertModel);
    `sites`: where virtual tokens go.
    """

    def __init__(
        self, delta: Delta, names: Mapping[str, StoredName], prefixes: Sequence[str], sites: Sites | None
    ) -> None:
        self.delta = delta
        self.sites = sites
        self.names = names
        self.prefixes = ("", *(p for p in prefixes if p))
        self.ours = {stored.name: ours for ours, stored in names.items()}
        self.tied = {again: ours for ours, stored in names.items() for again in stored.also}
        self.found: dict[str, str] = {}
        """Name in the net -> name in the file."""
        self.flat: set[str] = set()
        """Names in the net of vectors that the file spreads over two axes."""
        self.columns: dict[str, tuple[int, int]] = {}
        """Name in the net -> the columns of the file's matrix that it is."""
        self.problems: list[str] = []

    def resolve(self, name: str) -> str | None:
        """Hugging Face name of a parameter -> its name in the net."""
        return next((self.ours[p + name] for p in self.prefixes if p + name in self.ours), None)

    def layer(self, module: str, shown: str) -> str | None:
        """Path in the net of the layer that the adapter calls `module`; None, and a problem, where there is none."""
        parameter = self.resolve(f"{module}.weight")
        if parameter is None:
            self.unknown(f"{module}.weight", shown)
            return None
        return parameter.removesuffix(".weight")

    def whole(self, stored: str, name: str) -> None:
        """A head of modules_to_save, or a bias. The file may or may not keep peft's wrappers in the name,
        and may hold a tensor under both names; `original_module` is the base's own."""
        if ".original_module." in name:
            return
        plain = re.sub(r"\.modules_to_save(?:\.[^.]+(?=\.))?(?=\.)", "", name).replace(".base_layer.", ".")
        parameter = self.resolve(plain)
        if parameter is None:
            self.unknown(plain, plain)
        elif self.names[parameter].also:
            self.problems.append(
                f"{plain}: a trained copy of a matrix that the base shares with its head is not supported"
            )
        elif parameter not in self.found:
            self.found[parameter] = stored
        elif not np.array_equal(self.delta.tensors[stored], self.delta.tensors[self.found[parameter]]):
            self.problems.append(f"{stored} and {self.found[parameter]} are the same parameter, with other values")

    def unknown(self, name: str, shown: str) -> None:
        tied = next((self.tied[p + name] for p in self.prefixes if p + name in self.tied), None)
        if tied:
            self.problems.append(f"{shown}: the base shares this matrix with {self.names[tied].name}: not supported")
        else:
            self.problems.append(f"{shown}: the base has no such layer. {perhaps(name, self.ours)}".rstrip())

    def in_order(self, paths: Iterable[str]) -> list[str]:
        """Paths of layers in the net's order."""
        order = {parameter.removesuffix(".weight"): i for i, parameter in enumerate(self.names)}
        return sorted(paths, key=lambda path: order[path])

    def check_complete(self, targets: Targets, layers: Mapping[str, str], lacking: str) -> None:
        """What the config adapts or saves must be in the file: peft would fill it with its initial numbers.

        `layers`: path -> module of the layers that the file adapts; `lacking`: what a layer that it forgets lacks.
        """
        shortest = self._shortest(layers)
        for parameter, stored in self.names.items():
            module, _, leaf = stored.name.removeprefix(shortest).rpartition(".")
            if targets.is_saved(module):
                if parameter not in self.found:
                    self.problems.append(f"{module}.{leaf}: modules_to_save names it, but the file lacks it")
            elif (
                leaf == "weight"
                and not stored.optional
                and targets.targets_module(module)
                and parameter.removesuffix(".weight") not in layers
            ):
                self.problems.append(f"{module}: target_modules names it, but the file lacks {lacking}")

    def _shortest(self, layers: Mapping[str, str]) -> str:
        """The prefix that this adapter's paths lack."""
        for path, module in layers.items():
            return self.names[f"{path}.weight"].name.removesuffix(f"{module}.weight")
        return ""

    def raise_problems(self) -> None:
        """One DeltaError with everything that does not fit, where something does not."""
        if self.problems:
            more = [f"... and {len(self.problems) - _LISTED} more"] if len(self.problems) > _LISTED else []
            raise DeltaError(
                "\n  ".join([f"{self.delta.path}: this adapter does not fit:", *self.problems[:_LISTED], *more]),
                hint="Check that --base is the model it was trained on, and that the adapter is complete.",
            )

    def finish(self, algo: str, config: dict[str, Any]) -> Delta:
        """The delta in the net's names. Raises DeltaError for the problems, and for NaN or infinity."""
        self.raise_problems()
        assert isinstance(self.delta.tensors, LazyTensors)
        # A whole matrix of GPT-2's Conv1D is stored (in, out).
        turned = {ours for ours in self.found if ours in self.names and self.names[ours].transpose}
        tensors = self.delta.tensors.renamed(self.found, turned, self.flat, self.columns)
        return replace(self.delta, tensors=tensors, algo=algo, config=config, digest=tensors.checked_digest())
