"""Open and verify a checkpoint that is to be resharded, with the files that belong beside its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import MANIFEST_KEY, read_delta
from petrun.checkpoint.delta_tensors import LazyTensors
from petrun.checkpoint.hf_config import write_companions
from petrun.checkpoint.manifest import parse_manifest
from petrun.checkpoint.mindpet_names import algorithms
from petrun.checkpoint.run_files import RUN_YAML
from petrun.errors import DeltaError, ModelError, WeightsError
from petrun.models.factory import outline_model, read_family
from petrun.models.folder import CONFIG, read_json
from petrun.models.stacked import stacked_view
from petrun.models.weights import match, misshapen, open_weights
from petrun.tensors import ShardedReader, TensorReader, open_tensors
from petrun.tensors.sharded.rank_files import own_strategy
from petrun.tensors.sharded.ranks import is_sharded, root_of

SUFFIXES = (".ckpt", ".safetensors")
_LISTED = 8


@dataclass(frozen=True)
class SourceCheckpoint:
    """Full tensors, and the folder that holds config.json beside them."""

    reader: TensorReader
    root: Path

    @property
    def has_manifest(self) -> bool:
        """Whether it is a delta that petrun wrote."""
        return MANIFEST_KEY in self.reader.metadata

    @property
    def is_delta(self) -> bool:
        """Whether it is a delta of petrun or of MindPet."""
        return self.has_manifest or bool(algorithms({n: self.reader.info(n).shape for n in self.reader.names}))

    @property
    def suffix(self) -> str:
        """The ending of its files: .ckpt or .safetensors."""
        path = self.reader.ranks[0].path if isinstance(self.reader, ShardedReader) else self.reader.path
        return path.suffix if path.suffix in SUFFIXES else ".safetensors"

    @property
    def stem(self) -> str:
        """The name for files of it: a delta's algorithm, as in a run folder, else `model`."""
        if self.has_manifest:
            return parse_manifest(str(self.reader.path), self.reader.metadata[MANIFEST_KEY]).algo.replace("+", "-")
        return "delta" if self.is_delta else "model"

    def metadata(self) -> dict[str, str]:
        """Return the metadata for the full file: a delta's manifest, with the digest that no rank of a job knows when it saves."""
        if not self.has_manifest:
            return {}
        manifest = parse_manifest(str(self.reader.path), self.reader.metadata[MANIFEST_KEY])
        if not manifest.digest:
            manifest = manifest.model_copy(update={"digest": LazyTensors(self.reader).checked_digest()})
        return {MANIFEST_KEY: manifest.to_json()}

    def write_companions(self, folder: Path) -> None:
        """Write the files that make a folder a base: config.json and the tokenizer's."""
        if not self.is_delta and (self.root / CONFIG).is_file():
            write_companions(folder, read_json(self.root / CONFIG), self.root)


def open_source(given: Path, strategy: Path | None) -> SourceCheckpoint:
    """Open a base, a delta or the files of a job's ranks, and verify its tensors.

    Raises WeightsError, ModelError and DeltaError.
    """
    if strategy is None and own_strategy(given) is None and is_sharded(given):
        raise WeightsError(
            f"{given}: holds the files of a job's ranks, each with a shard of the tensors",
            hint="Give the job's strategy file, --from-strategy FILE. Where nothing was sharded, any one rank's file is the whole.",
        )
    root = root_of(given)
    return SourceCheckpoint(_verified(given, strategy or own_strategy(given)), root if root.is_dir() else given.parent)


def _verified(source: Path, strategy: Path | None) -> TensorReader:
    if strategy is not None:
        reader = open_weights(source, strategy)
        if MANIFEST_KEY in reader.metadata:
            read_delta(source, strategy)
        return reader
    if source.is_dir() and ((source / RUN_YAML).is_file() or (source / "adapter_config.json").is_file()):
        delta = read_delta(source)
        if delta.origin == "peft":
            raise DeltaError(
                f"{source}: is a peft adapter, whose names no strategy lists",
                hint="Make a petrun delta of it first: petrun delta convert.",
            )
        own = own_strategy(delta.path)
        return open_tensors(delta.path) if own is None else open_weights(delta.path, own)
    reader = open_weights(source)
    if MANIFEST_KEY in reader.metadata:
        read_delta(reader.path)
    return reader


def require_matching_config(source: SourceCheckpoint) -> str:
    """Compare a base's shapes with its config.json: files that are joined by another job's strategy have other shapes.

    Returns why they could not be compared; "" where they were. Raises WeightsError.
    """
    if source.is_delta:
        return ""
    reader, root = source.reader, source.root
    if not (root / CONFIG).is_file():
        return f"{root} has none"
    try:
        outline = outline_model(root)
    except ModelError as error:
        return error.message
    _, family, parsed = read_family(root, None)
    names = family.names(parsed)
    view = stacked_view(reader, names, family.prefixes)
    matched = match(view, names, family.prefixes, family.ignored)
    if not matched.found:
        return f"{reader.path} holds none of the tensors that {root / CONFIG} describes"
    problems = misshapen(view, matched, outline.net, outline.sites.trained_heads)
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        by = f" put together by {reader.strategy.path}" if isinstance(reader, ShardedReader) else ""
        raise WeightsError(
            "\n  ".join([f"{reader.path}:{by} does not fit {root / CONFIG}:", *problems[:_LISTED], *more]),
            hint="The strategy is of another job or model: give the one that the job wrote."
            if by
            else "Check that the weights and config.json belong together.",
        )
    return ""
