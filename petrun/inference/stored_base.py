"""Read the tensors of a base on disk without building its net: for merges, and for arithmetic of deltas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import BaseIdentity, Delta
from petrun.checkpoint.merge import MergeBase
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.inference.assembly import base_path, require_matching_family, strategy_path
from petrun.interop.convert import to_net_names
from petrun.models.base import Family, FamilyConfig, StoredName, shared_matrices
from petrun.models.factory import is_factory, read_family
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

    @property
    def prefixes(self) -> tuple[str, ...]:
        return self.kind.prefixes if self.kind else ("",)

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.kind.ignored if self.kind else ()

    @property
    def sites(self) -> Sites | None:
        return self.kind.sites(self.parsed) if self.kind else None

    def reader(self) -> TensorReader:
        """Open the tensors, under the names of their files."""
        return open_weights(self.path, strategy_path(self.strategy))

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

    def fit(self, delta: Delta, alpha: float | None) -> Delta:
        """Rename a delta's tensors as this model's. Raises DeltaError for a delta of another architecture, or that fits nowhere."""
        require_matching_family(delta, self.raw)
        return to_net_names(delta, self.names, self.prefixes, alpha, self.sites, lambda name: self.arrays()[name])

    def identity(self, arrays: BaseArrays, digest: str) -> BaseIdentity:
        """Describe the base as a manifest does."""
        fresh = tuple(name for name, stored in self.names.items() if stored.optional and name not in arrays)
        return BaseIdentity(digest=digest, name=self.path.name, fresh=fresh)


def stored_base(
    base: str | None, family: str | None, strategy: str | None = None, config: str | None = None
) -> StoredBase:
    """Open the user's base, or the embedded one. Raises ModelError, and ConfigError for a factory without a checkpoint."""
    path = base_path(ModelConfig(base=base, family=family, base_strategy=strategy))
    if path is None:
        raise ConfigError(
            "--base is missing: a model from a factory without a checkpoint has no weights on disk",
            hint="Give the checkpoint that the factory's net starts from as --base.",
        )
    if is_factory(family):
        return StoredBase(path=path, raw={}, kind=None, parsed=None, family=str(family), strategy=strategy)
    raw, kind, parsed = read_family(path, family, Path(config) if config is not None else None)
    return StoredBase(
        path=path,
        raw=raw,
        kind=kind,
        parsed=parsed,
        family=kind.name,
        names=kind.names(parsed),
        strategy=strategy,
    )
