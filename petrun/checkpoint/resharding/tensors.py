"""Name the full tensors of a checkpoint as a job's strategy lists them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from petrun.checkpoint.mindpet_names import current_name
from petrun.checkpoint.resharding.source import SourceCheckpoint
from petrun.errors import WeightsError
from petrun.models.factory import read_family
from petrun.models.folder import CONFIG
from petrun.models.weights import Source, match
from petrun.tensors import Array, ShardedReader, TensorInfo, TensorReader, tensor_digest
from petrun.tensors.known_names import DELTA_PREFIX, OPTIMIZER_STATE, is_spare
from petrun.tensors.sharded.strategy import COMPLETE, Strategy, spell
from petrun.tensors.sharded.writer import FullTensor, full_tensors

_LISTED = 8


def tensors_to_shard(source: SourceCheckpoint, strategy: Strategy) -> tuple[list[FullTensor], list[str]]:
    """Return the tensors under the names that the strategy lists, each with a layout; and the optimizer's state that is left out, as no
    layout describes it.

    A base with Hugging Face's names gets the net's names. Raises WeightsError for a tensor without a layout, and a parameter that is
    missing.
    """
    reader = source.reader
    tensors, optional = full_tensors(reader), set[str]()
    unlisted = _unlisted(tensors, strategy)
    # A training job's own file, with the optimizer's state, has the net's names already.
    foreign = not source.is_delta and not any(is_spare(t.name, OPTIMIZER_STATE, reader) for t in tensors)
    if unlisted and foreign and (source.root / CONFIG).is_file():
        tensors, optional = _with_net_names(source)
        unlisted = _unlisted(tensors, strategy)
    if unlisted:
        raise WeightsError(
            f"{strategy.path}: says nothing of {spell(unlisted, 'tensors')} of {reader.path}",
            hint="Give the strategy of its fine-tuning." if source.is_delta else COMPLETE,
        )
    _require_all(source, {t.name for t in tensors} | optional, strategy)
    left_out = [t.name for t in tensors if t.name not in strategy and t.info.elements != 1]
    if isinstance(reader, ShardedReader):
        left_out += reader.dropped
    return [t for t in tensors if t.name not in left_out], left_out


def _unlisted(tensors: Sequence[FullTensor], strategy: Strategy) -> list[str]:
    """Return the parameters without a layout; the optimizer's state needs none."""
    return [t.name for t in tensors if t.name not in strategy and not is_spare(t.name, OPTIMIZER_STATE, strategy)]


def _require_all(source: SourceCheckpoint, known: set[str], strategy: Strategy) -> None:
    """Raises WeightsError where the checkpoint lacks a parameter that the strategy lists.

    A base must hold every parameter that is not a delta's, MindPet's delta every one that is. A delta with a manifest was compared with
    the manifest's own list already.
    """
    if source.has_manifest:
        return
    delta = source.is_delta
    lacking = [
        name
        for name in strategy.names
        if name not in known
        and not is_spare(name, OPTIMIZER_STATE, strategy)
        and (DELTA_PREFIX in current_name(name)) == delta
    ]
    if lacking:
        raise WeightsError(
            f"{source.reader.path}: lacks {spell(lacking)}, which {strategy.path} lists",
            hint="Check that the files and the strategy are of the same model.",
        )


def _with_net_names(source: SourceCheckpoint) -> tuple[list[FullTensor], set[str]]:
    """Convert a base from Hugging Face's names and layout to the net's, which a job's strategy lists. Returns also the optional names."""
    reader, root = source.reader, source.root
    _, family, parsed = read_family(root, None)
    names = family.names(parsed)
    matched = match(reader, names, family.prefixes, family.ignored)
    problems = [*matched.problems, *(f"{stored} belongs to no parameter" for stored in matched.unknown)]
    repeats = [(matched.found[ours].stored, s.stored) for ours, again in matched.repeats.items() for s in again]
    problems += [
        f"{again} differs from {first}"
        for first, again in repeats
        if tensor_digest(reader, first) != tensor_digest(reader, again)
    ]
    if problems:
        raise WeightsError(
            "\n  ".join([f"{reader.path}: does not fit {root / CONFIG}:", *problems[:_LISTED]]),
            hint="Check that the weights and config.json belong together.",
        )
    tensors = [_in_net_layout(reader, ours, stored) for ours, stored in matched.found.items()]
    return tensors, {name for name, stored in names.items() if stored.optional}


def _in_net_layout(reader: TensorReader, name: str, source: Source) -> FullTensor:
    info = reader.info(source.stored)
    if not source.transpose:
        return FullTensor(name, info, partial(reader.read_stored, source.stored))

    def load() -> Array:
        return np.ascontiguousarray(reader.read_stored(source.stored).T)

    return FullTensor(name, TensorInfo(tuple(reversed(info.shape)), info.dtype), load)
