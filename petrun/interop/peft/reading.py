"""Read the parts that all kinds of peft adapter files share: map modules to parameters, read heads in full, and report all problems at
once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import LazyTensors, arrays_digest
from petrun.errors import DeltaError, perhaps
from petrun.graph.sites import Sites
from petrun.interop.peft.config import Fields, Targets, names_module, tying
from petrun.models.base import StoredName, shared_matrices, untied
from petrun.tensors import Array
from petrun.typing import JsonObject

PREFIX = "base_model.model."
Base = Callable[[str], Array]
"""Net parameter -> its value in the base, float32."""
_LISTED = 20


class Reading:
    """Finds the net's parameters for an adapter's names; collects problems.

    `names`: net parameter -> its Hugging Face name; `prefixes`: prefixes that a path may lack (an adapter trained on BertModel);
    `algo`: the method that the adapter becomes; `sites`: where virtual tokens go, and which layers are embeddings; `base`: the base's
    weights, where they are available.
    """

    def __init__(
        self,
        delta: Delta,
        names: Mapping[str, StoredName],
        prefixes: Sequence[str],
        *,
        algo: str = "",
        sites: Sites | None = None,
        base: Base | None = None,
    ) -> None:
        self.delta = delta
        self.algo = algo
        self.sites = sites
        self.base = base
        self.names = untied(names)
        self.shared = shared_matrices(names)
        """Weight that a layer would have of its own -> the weight that it shares in the base."""
        self.prefixes = ("", *(p for p in prefixes if p))
        self.ours = {stored.name: ours for ours, stored in self.names.items()}
        self.saved = Fields(delta.config).several("modules_to_save")
        self.ties_saved, self.ties_targets = tying(delta.config) if self.shared else (False, False)
        self.of_both: set[str] = set()
        """Shared weights whose value in the file peft loads into the base's one matrix, and so for every layer that uses it."""
        self.made: dict[str, Array] = {}
        """Tensors that are not in the file: name in the net -> values, float32."""
        self.found: dict[str, str] = {}
        """Name in the net -> name in the file."""
        self.flat: set[str] = set()
        """Names in the net of vectors that the file spreads over two axes."""
        self.transposed: set[str] = set()
        """Names in the net of a method's own matrices that the file holds transposed."""
        self.columns: dict[str, tuple[int, int]] = {}
        """Name in the net -> the columns of the file's matrix that it is."""
        self.problems: list[str] = []

    def resolve(self, name: str) -> str | None:
        """Return the net's name of a parameter by its Hugging Face name."""
        return next((self.ours[p + name] for p in self.prefixes if p + name in self.ours), None)

    def layer(self, module: str, shown: str) -> str | None:
        """Return the path in the net of the layer that the adapter calls `module`; None, and a problem, where there is none."""
        parameter = self.resolve(f"{module}.weight")
        if parameter is None:
            self.unknown(f"{module}.weight", shown)
            return None
        return parameter.removesuffix(".weight")

    def full_tensor(self, stored: str, name: str) -> None:
        """Read a full tensor: a head of modules_to_save, or a bias. The file may or may not keep peft's wrappers in the name,
        and may hold a tensor under both names; `original_module` is the base's own."""
        if ".original_module." in name:
            return
        plain = re.sub(r"\.modules_to_save(?:\.[^.]+(?=\.))?(?=\.)", "", name).replace(".base_layer.", ".")
        parameter = self.resolve(plain)
        if parameter is None:
            self.unknown(plain, plain)
        elif parameter not in self.found:
            self.found[parameter] = stored
            own = names_module(self.saved, plain.rpartition(".")[0]) or ".modules_to_save." in name
            if self.ties_saved or not own:
                self.of_both.add(parameter)
        elif not np.array_equal(self.delta.tensors[stored], self.delta.tensors[self.found[parameter]]):
            self.problems.append(f"{stored} and {self.found[parameter]} are the same parameter, with other values")

    def unknown(self, name: str, shown: str) -> None:
        self.problems.append(f"{shown}: the base has no such layer. {perhaps(name, self.ours)}".rstrip())

    def in_order(self, paths: Iterable[str]) -> list[str]:
        """Return the paths of layers in the net's order."""
        order = {parameter.removesuffix(".weight"): i for i, parameter in enumerate(self.names)}
        return sorted(paths, key=lambda path: order[path])

    def check_complete(self, targets: Targets, layers: Mapping[str, str], lacking: str) -> None:
        """Require the file to hold everything that the config adapts or saves: peft would initialise what is missing.

        `layers`: path -> module of the layers that the file adapts; `lacking`: names of the tensors that a missing layer lacks.
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
        """Return the prefix that this adapter's paths lack."""
        for path, module in layers.items():
            return self.names[f"{path}.weight"].name.removesuffix(f"{module}.weight")
        return ""

    def adapted(self) -> set[str]:
        """Return the paths of the layers that the file has matrices for."""
        return {name.rpartition(".")[0] for name in self.found if name not in self.names}

    def base_value(self, parameter: str, why: str) -> Array | None:
        """Return a parameter's value in the base, float32; None, and a problem that says why it is needed, where the base is not
        available.
        """
        if self.base is None:
            self.problems.append(f"{why}: the base's weights are needed, and only its config.json was given")
            return None
        return self.base(parameter)

    def _resolve_shared(self) -> None:
        """Do as peft does where the base's layers share a matrix: a module of modules_to_save has a copy of its own, the other
        module keeps the base's, and any other full tensor goes into the one matrix of both."""
        for own, ours in self.shared.items():
            held = {name: self.found.pop(name) for name in (ours, own) if name in self.found}
            common = [stored for name, stored in held.items() if name in self.of_both]
            if len(common) == 2 and not self._same(*common):
                self.problems.append(f"{' and '.join(common)}: differ, and peft would load both into one matrix")
            if ours in self.made or own in self.made:
                self._keep_other(own, ours, held)
                continue
            fallback = common[0] if common else None
            first, second = held.get(ours, fallback), held.get(own, fallback)
            if first is not None:
                self.found[ours] = first
            if second is not None and not (first is not None and self._same(first, second)):
                self.found[own] = second
            elif second is None and first is not None:
                value = self.base_value(ours, f"{self.names[own].name} keeps the matrix that it shares with {first}")
                if value is not None:
                    self.made[own] = value

    def _keep_other(self, own: str, ours: str, held: Mapping[str, str]) -> None:
        """Keep the matrix of the other layer, where rows of one of the two were trained."""
        self.found |= held
        if own not in self.made and own not in held and ours not in self.of_both:
            value = self.base_value(
                ours, f"{self.names[own].name} keeps the matrix that it shares with {self.names[ours].name}"
            )
            if value is not None:
                self.made[own] = value

    def _same(self, one: str, other: str) -> bool:
        return one == other or np.array_equal(self.delta.tensors[one], self.delta.tensors[other])

    def raise_problems(self) -> None:
        """Raise one DeltaError with all problems, where there are any."""
        if self.problems:
            more = [f"... and {len(self.problems) - _LISTED} more"] if len(self.problems) > _LISTED else []
            raise DeltaError(
                "\n  ".join([f"{self.delta.path}: this adapter does not fit:", *self.problems[:_LISTED], *more]),
                hint="Check that --base is the model it was trained on, and that the adapter is complete.",
            )

    def finish(self, config: JsonObject) -> Delta:
        """Return the delta in the net's names. Raises DeltaError for the problems, and for NaN or infinity."""
        if not self.problems:
            self._resolve_shared()
        self.raise_problems()
        assert isinstance(self.delta.tensors, LazyTensors)
        # A full matrix of GPT-2's Conv1D is stored as (in, out).
        transposed = {ours for ours in self.found if ours in self.names and self.names[ours].transpose}
        tensors = self.delta.tensors.renamed(self.found, transposed | self.transposed, self.flat, self.columns)
        digest = tensors.checked_digest()
        if not self.made:
            return replace(self.delta, tensors=tensors, algo=self.algo, config=config, digest=digest)
        every = {**tensors, **self.made}
        return replace(self.delta, tensors=every, algo=self.algo, config=config, digest=arrays_digest(every))
