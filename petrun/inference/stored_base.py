"""Read the tensors of a base on disk without building its net: for merges, and for arithmetic of deltas."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import BaseIdentity, Delta
from petrun.checkpoint.merge import MergeBase
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.inference.assembly import base_path, config_file, form_to_make, require_matching_family, strategy_path
from petrun.interop.convert import to_net_names
from petrun.models.base import BaseContent, Family, FamilyConfig, StoredName, shared_matrices
from petrun.models.factory import is_factory, read_family, require_built_in
from petrun.models.quantised import form_of, original_of, quantised_view
from petrun.models.weights import match, open_weights, stored_digest
from petrun.tensors import TensorReader
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class StoredBase:
    """A base's files, of which only the headers have been read."""

    path: Path
    raw: JsonObject
    """config.json; {} for a model of the user's own."""
    kind: Family | None
    """None for a model of the user's own."""
    parsed: FamilyConfig | None
    """The family's own form of config.json."""
    family: str
    """Name of the family, or of the user's factory."""
    names: dict[str, StoredName] = field(default_factory=dict)
    """{} for a model of the user's own, whose parameters keep their names."""
    strategy: str | None = None
    """Strategy file or folder of a base that is in the files of a job's ranks."""
    quantisation: str | None = None
    """The form in which the linear layers are held, int8 or nf4; None: as the files hold them."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        return self.kind.prefixes if self.kind else ("",)

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.kind.ignored if self.kind else ()

    @property
    def architecture(self) -> str | None:
        """The class of transformers whose names the tensors have."""
        return self.kind.hf_classes[self.raw["model_type"]] if self.kind else None

    @property
    def sites(self) -> Sites | None:
        return self.kind.sites(self.parsed) if self.kind else None

    def reader(self) -> TensorReader:
        """Open the tensors, under the names of their files; those in codes as their values."""
        stored = open_weights(self.path, strategy_path(self.strategy))
        if self.kind is None or self.parsed is None:
            return stored
        return quantised_view(stored, self.kind, self.parsed, self.raw, self.quantisation)

    def arrays(self, reader: TensorReader | None = None) -> BaseArrays:
        """Map the names of the net's parameters to tensors, which are read at access."""
        reader = reader or self.reader()
        matched = match(reader, self.names_in(reader), self.prefixes, self.ignored)
        return BaseArrays(reader, matched, shared_matrices(self.names))

    def names_in(self, reader: TensorReader) -> dict[str, StoredName]:
        """Map the name of each parameter to its name in the files."""
        return self.names or {name: StoredName(name=name) for name in reader.names}

    def to_merge(self) -> MergeBase:
        """Return the base in the form that a merge takes."""
        return MergeBase(reader=self.reader(), names=self.names, prefixes=self.prefixes, ignored=self.ignored)

    def digest(self, reader: TensorReader | None = None) -> str:
        """Compute the base's digest, by which deltas identify it. Reads every tensor."""
        reader = reader or self.reader()
        matched = match(reader, self.names_in(reader), self.prefixes, self.ignored)
        # Task heads are never part of the digest: every delta has its own.
        return stored_digest(reader, matched, self.sites.trained_heads if self.sites else ())

    def content(self) -> BaseContent:
        """Compute what the base is recognised by. Reads every tensor."""
        reader = self.reader()
        form = form_of(reader)
        original = original_of(reader) if form else ""
        if self.quantisation is not None:
            original = replace(self, quantisation=None).digest()
        return BaseContent(digest=self.digest(reader), quantisation=form, original=original)

    def fit(self, delta: Delta, alpha: float | None) -> Delta:
        """Rename a delta's tensors as this model's. Raises DeltaError for a delta of another architecture, or that fits nowhere."""
        require_matching_family(delta, self.raw)
        return to_net_names(delta, self.names, self.prefixes, alpha, self.sites, lambda name: self.arrays()[name])

    def identity(self, arrays: BaseArrays, content: BaseContent) -> BaseIdentity:
        """Describe the base as a manifest does."""
        fresh = tuple(name for name, stored in self.names.items() if stored.optional and name not in arrays)
        return BaseIdentity(
            digest=content.digest,
            quantisation=content.quantisation,
            original=content.original,
            name=self.path.name,
            fresh=fresh,
        )


def stored_base(model: ModelConfig, task: str | None = None) -> StoredBase:
    """Open the user's base, or the embedded one, with the head of the task; None: of config.json.

    Raises ModelError, and ConfigError for a factory without a checkpoint.
    """
    path, family = base_path(model), model.family
    if path is None:
        raise ConfigError(
            "--base is missing: a model from a factory without a checkpoint has no weights on disk",
            hint="Give the checkpoint that the factory's net starts from as --base.",
        )
    if is_factory(family):
        require_built_in(str(family), form_to_make(model))
        return StoredBase(path=path, raw={}, kind=None, parsed=None, family=str(family), strategy=model.base_strategy)
    raw, kind, parsed = read_family(path, family, config_file(model), task)
    parsed = kind.settle(parsed, open_weights(path, strategy_path(model.base_strategy)))
    return StoredBase(
        path=path,
        raw=raw,
        kind=kind,
        parsed=parsed,
        family=kind.name,
        names=kind.names(parsed),
        strategy=model.base_strategy,
        quantisation=form_to_make(model),
    )
