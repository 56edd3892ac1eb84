"""`petrun reshard`: a checkpoint cut for one job, or whole, as the files that another job reads, or as one file. No net is built."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from petrun import console
from petrun.checkpoint.delta import MANIFEST_KEY, read_delta
from petrun.checkpoint.delta_tensors import LazyTensors
from petrun.checkpoint.hf_config import write_companions
from petrun.checkpoint.manifest import parse_manifest
from petrun.checkpoint.run_files import RUN_YAML
from petrun.errors import ConfigError, DeltaError, ModelError, OutputError, WeightsError
from petrun.inference.assembly import strategy_path
from petrun.interop.mindpet.names import MARK, algorithms, current_name
from petrun.models.factory import outline_model, read_family
from petrun.models.folder import CONFIG, read_json
from petrun.models.weights import OPTIMIZER_STATE, Match, Source, match, misshapen, open_weights
from petrun.tensors import (
    Array,
    ShardedReader,
    TensorEntry,
    TensorInfo,
    TensorReader,
    atomic_folder,
    open_tensors,
    tensor_digest,
    write_ckpt,
    write_safetensors,
)
from petrun.tensors.atomic import refuse_occupied
from petrun.tensors.sharded.checkpoint import is_spare
from petrun.tensors.sharded.rank_files import own_strategy
from petrun.tensors.sharded.ranks import is_sharded, root_of
from petrun.tensors.sharded.strategy import COMPLETE, Strategy, read_strategy, spell
from petrun.tensors.sharded.writer import Whole, wholes_of, write_sharded

_SUFFIXES = (".ckpt", ".safetensors")


def run(
    *,
    source: str,
    from_strategy: str | None,
    to_strategy: str | None,
    single: bool,
    out: str,
    fmt: str | None,
) -> None:
    """Read, cut or join, verify, and say what was written."""
    if single == (to_strategy is not None):
        what = "contradict each other" if single else "are both missing"
        raise ConfigError(
            f"--to-strategy and --single {what}",
            hint="Give the strategy file to cut by, or --single for one file.",
        )
    if fmt not in (None, "ckpt", "safetensors"):
        raise ConfigError(f"--format {fmt} is unknown", hint="Known: ckpt, safetensors.")
    began = time.perf_counter()
    place = Path(out).expanduser()
    refuse_occupied(place)
    given = Path(source).expanduser()
    if from_strategy is None and own_strategy(given) is None and is_sharded(given):
        raise WeightsError(
            f"{source}: holds the files of a job's ranks, each with a piece of the tensors",
            hint="Give the job's strategy file, --from-strategy FILE. Where nothing was cut, any one rank's file is the whole.",
        )
    reader = _open(given, strategy_path(from_strategy) or own_strategy(given))
    root = root_of(given) if root_of(given).is_dir() else given.parent
    unchecked = _hold_to_config(reader, root)
    suffix = f".{fmt}" if fmt else place.suffix if place.suffix in _SUFFIXES else _suffix(reader)
    if to_strategy is None:
        wholes = wholes_of(reader)
        _write_single(place, wholes, reader, root, suffix)
        written = "one file"
    else:
        if place.suffix in _SUFFIXES:
            raise ConfigError(f"--out {out}: the ranks' files need a folder", hint="Give a name without an ending.")
        strategy = read_strategy(Path(to_strategy).expanduser())
        wholes = _to_be_cut(reader, root, strategy)
        write_sharded(
            place,
            wholes,
            strategy,
            file=f"{_stem(reader)}{suffix}",
            metadata=_metadata(reader),
            spare=OPTIMIZER_STATE,
            beside=lambda folder: _companions(folder, reader, root),
        )
        written = f"the files of {strategy.devices} ranks"
    console.print(
        f"wrote {len(wholes)} tensors into {written}, {place}, in {time.perf_counter() - began:.1f} s; read back and verified"
    )
    if unchecked:
        console.print(f"shapes were not held against a config.json: {unchecked}")


def _open(source: Path, strategy: Path | None) -> TensorReader:
    """Whatever is given, its tensors checked. Raises WeightsError, ModelError and DeltaError."""
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


def _hold_to_config(reader: TensorReader, root: Path) -> str:
    """Hold a base's shapes against its config.json: ranks' files put together by another job's strategy are of other shapes.

    Returns why that could not be done, if it could not. Raises WeightsError."""
    if _is_delta(reader):
        return ""
    if not (root / CONFIG).is_file():
        return f"{root} has none"
    try:
        outline = outline_model(root)
    except ModelError as error:
        return error.message
    _, family, parsed = read_family(root, None)
    matched = match(reader, family.names(parsed), family.prefixes, family.ignored)
    if not matched.found:
        return f"{reader.path} holds none of the tensors that {root / CONFIG} describes"
    problems = misshapen(reader, matched, outline.net, outline.sites.trained_heads)
    if problems:
        more = [f"... and {len(problems) - 8} more"] if len(problems) > 8 else []
        by = f" put together by {reader.strategy.path}" if isinstance(reader, ShardedReader) else ""
        raise WeightsError(
            "\n  ".join([f"{reader.path}:{by} does not fit {root / CONFIG}:", *problems[:8], *more]),
            hint="The strategy is of another job or model: give the one that the job wrote."
            if by
            else "Check that the weights and config.json belong together.",
        )
    return ""


def _suffix(reader: TensorReader) -> str:
    path = reader.ranks[0].path if isinstance(reader, ShardedReader) else reader.path
    return path.suffix if path.suffix in _SUFFIXES else ".safetensors"


def _stem(reader: TensorReader) -> str:
    """Of the files: a delta's algorithm, as in a run folder, else `model`."""
    if MANIFEST_KEY in reader.metadata:
        return parse_manifest(str(reader.path), reader.metadata[MANIFEST_KEY]).algo.replace("+", "-")
    return "delta" if _is_delta(reader) else "model"


def _is_delta(reader: TensorReader) -> bool:
    return MANIFEST_KEY in reader.metadata or bool(algorithms({n: reader.info(n).shape for n in reader.names}))


def _metadata(reader: TensorReader) -> dict[str, str]:
    """The whole's own: of a delta its manifest, with the digest that no rank of a job knows when it saves."""
    text = reader.metadata.get(MANIFEST_KEY)
    if text is None:
        return {}
    manifest = parse_manifest(str(reader.path), text)
    if not manifest.digest:
        manifest = manifest.model_copy(update={"digest": LazyTensors(reader).checked_digest()})
    return {MANIFEST_KEY: manifest.to_json()}


def _write_single(out: Path, wholes: Sequence[Whole], reader: TensorReader, root: Path, suffix: str) -> None:
    if out.suffix in _SUFFIXES and out.suffix != suffix:
        raise ConfigError(f"--out {out} contradicts --format {suffix[1:]}", hint="Leave one of them out.")
    entries = [TensorEntry(w.name, w.info.shape, w.info.dtype, partial(_bytes, w)) for w in wholes]
    write = partial(write_ckpt, leading=True) if suffix == ".ckpt" else write_safetensors
    if out.suffix in _SUFFIXES:
        if out.exists():
            raise OutputError(f"{out}: exists", hint="Choose another --out, or remove it first.")
        write(out, entries, _metadata(reader))
        return
    with atomic_folder(out) as folder:
        write(folder / f"{_stem(reader)}{suffix}", entries, _metadata(reader))
        _companions(folder, reader, root)


def _bytes(whole: Whole) -> bytes:
    values = whole.load()
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _companions(folder: Path, reader: TensorReader, root: Path) -> None:
    """What makes a folder a base: config.json and the tokenizer's files."""
    if not _is_delta(reader) and (root / CONFIG).is_file():
        write_companions(folder, read_json(root / CONFIG), root)


def _to_be_cut(reader: TensorReader, root: Path, strategy: Strategy) -> list[Whole]:
    """The tensors under the names that the strategy lists, each with a layout. Raises WeightsError."""
    wholes, optional = wholes_of(reader), set[str]()
    unlisted = _unlisted(wholes, strategy)
    # A training job's own file, with the optimizer's state, has the net's names already.
    foreign = not _is_delta(reader) and not any(is_spare(w.name, OPTIMIZER_STATE, reader) for w in wholes)
    if unlisted and foreign and (root / CONFIG).is_file():
        wholes, optional = _in_the_nets_names(reader, root)
        unlisted = _unlisted(wholes, strategy)
    if unlisted:
        raise WeightsError(
            f"{strategy.path}: says nothing of {spell(unlisted, 'tensors')} of {reader.path}",
            hint="Give the strategy of its fine-tuning." if _is_delta(reader) else COMPLETE,
        )
    _check_all_there(reader, wholes, optional, strategy)
    left_out = [w.name for w in wholes if w.name not in strategy and w.info.elements != 1]
    if isinstance(reader, ShardedReader):
        left_out += reader.dropped
    if left_out:
        console.print(f"left out: {spell(left_out, 'tensors')}: optimizer state that no layout describes")
    return [w for w in wholes if w.name not in left_out]


def _unlisted(wholes: Sequence[Whole], strategy: Strategy) -> list[str]:
    """Parameters without a layout; the optimizer's state is none."""
    return [w.name for w in wholes if w.name not in strategy and not is_spare(w.name, OPTIMIZER_STATE, strategy)]


def _check_all_there(reader: TensorReader, wholes: Sequence[Whole], optional: set[str], strategy: Strategy) -> None:
    """A base brings every parameter that the strategy lists but a delta's, MindPet's delta every one of a delta. A manifest has been
    held against its own list.
    """
    if MANIFEST_KEY in reader.metadata:
        return
    held = {w.name for w in wholes}
    delta = _is_delta(reader)
    lacking = [
        name
        for name in strategy.names
        if name not in held | optional
        and not is_spare(name, OPTIMIZER_STATE, strategy)
        and (MARK in current_name(name)) == delta
    ]
    if lacking:
        raise WeightsError(
            f"{reader.path}: lacks {spell(lacking)}, which {strategy.path} lists",
            hint="Check that the files and the strategy are of the same model.",
        )


def _in_the_nets_names(reader: TensorReader, root: Path) -> tuple[list[Whole], set[str]]:
    """A base in Hugging Face's names and layout -> the net's, which a job's strategy lists; and what a base may lack."""
    _, family, parsed = read_family(root, None)
    names = family.names(parsed)
    matched = match(reader, names, family.prefixes, family.ignored)
    problems = [*matched.problems, *(f"{stored} belongs to no parameter" for stored in matched.unknown)]
    problems += [
        f"{again} differs from {first}" for first, again in _twins(matched) if not _alike(reader, first, again)
    ]
    if problems:
        raise WeightsError(
            "\n  ".join([f"{reader.path}: does not fit {root / CONFIG}:", *problems[:8]]),
            hint="Check that the weights and config.json belong together.",
        )
    wholes = [_turned(reader, ours, source) for ours, source in matched.found.items()]
    return wholes, {name for name, stored in names.items() if stored.optional}


def _twins(matched: Match) -> list[tuple[str, str]]:
    return [(matched.found[ours].stored, s.stored) for ours, again in matched.repeats.items() for s in again]


def _alike(reader: TensorReader, first: str, again: str) -> bool:
    return tensor_digest(reader, first) == tensor_digest(reader, again)


def _turned(reader: TensorReader, name: str, source: Source) -> Whole:
    info = reader.info(source.stored)
    if not source.turn:
        return Whole(name, info, partial(reader.read_stored, source.stored))

    def load() -> Array:
        return np.ascontiguousarray(reader.read_stored(source.stored).T)

    return Whole(name, TensorInfo(tuple(reversed(info.shape)), info.dtype), load)
