"""Read and write the delta file: only what was trained, and a manifest that says what it is and which base it belongs to.

It is a MindSpore checkpoint (manifest through `append_dict`) or a safetensors file (manifest in the metadata). peft adapter folders and
MindPet checkpoints are recognised here as well; petrun.interop.convert converts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from petrun.checkpoint.delta_tensors import Computed, LazyTensors, array_line, refuse_nonfinite
from petrun.checkpoint.manifest import BaseIdentity, Manifest, TaskInfo, parse_manifest
from petrun.checkpoint.mindpet_names import algorithms
from petrun.errors import DeltaError, OutputError, WeightsError, perhaps
from petrun.tensors import (
    Array,
    ShardedReader,
    TensorEntry,
    TensorReader,
    content_digest,
    open_sharded,
    open_tensors,
    write_ckpt,
    write_safetensors,
)
from petrun.tensors.dtypes import dtype_of
from petrun.tensors.known_names import OPTIMIZER_STATE
from petrun.tensors.sharded.rank_files import ShardSpec, own_strategy, save_shards
from petrun.tensors.sharded.ranks import is_sharded
from petrun.tensors.steps import newest, series_and_step
from petrun.typing import JsonObject

__all__ = ["BaseIdentity", "Delta", "Manifest", "TaskInfo", "check_delta", "read_delta", "save_delta"]

MANIFEST_KEY = "petrun_manifest"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX_ENCODER = "transformer.prefix_encoder."
"""What every tensor is called in a checkpoint of ChatGLM's own P-Tuning v2."""
_SUFFIXES = (".ckpt", ".safetensors")
_MODEL_FILES = ("pytorch_model.bin", "model.safetensors")
_LISTED = 20


@dataclass(frozen=True)
class Delta:
    """A delta that was read. Until it is converted, a foreign one (`origin` not "petrun") has its own names and no `algo`."""

    path: Path
    """The file; for a peft adapter its folder."""
    tensors: Mapping[str, Array]
    """Parameter name -> array; floating-point ones float32. Read at every access."""
    manifest: Manifest | None = None
    origin: Literal["petrun", "peft", "mindpet", "chatglm"] = "petrun"
    algo: str = ""
    config: JsonObject = field(default_factory=dict)
    """The algorithm's settings; for a peft adapter not yet converted, its adapter_config.json."""
    digest: str = ""
    """SHA-256 over the tensors; "" for a foreign one not yet converted."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        if isinstance(self.tensors, LazyTensors | Computed):
            return {name: self.tensors.shape(name) for name in self.tensors}
        return {name: array.shape for name, array in self.tensors.items()}


def save_delta(path: Path, tensors: Mapping[str, Array], manifest: Manifest) -> Manifest:
    """Write a delta file, atomically; .ckpt or .safetensors by the path's suffix. Returns the manifest as
    written.

    Raises DeltaError for no tensors, NaN or infinity; OutputError for a path that cannot be written or has
    another suffix.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise OutputError(
            f"{path}: a delta file ends in .ckpt or .safetensors", hint="Give the path one of these endings."
        )
    if not tensors:
        raise DeltaError(f"{path}: there is nothing to save: the delta owns no parameter")
    owned = tuple(sorted(tensors))
    lines, entries = [], []
    for name in owned:
        values = np.asarray(tensors[name])
        refuse_nonfinite(str(path), name, values)
        lines.append(array_line(name, values))
        # Read again when it is written: tensors that are read or computed at every access are never all in memory.
        entries.append(TensorEntry(name, values.shape, dtype_of(values), partial(_array, tensors, name)))
    filled = manifest.model_copy(update={"owned": owned, "digest": content_digest(lines)})
    write = partial(write_ckpt, leading=True) if path.suffix == ".ckpt" else write_safetensors
    text = filled.to_json()
    write(path, entries, {MANIFEST_KEY: text})
    # From the text, so that it equals what a reader gets (tuples in `config` are lists there).
    return parse_manifest(str(path), text)


def save_delta_shards(
    path: Path, fmt: str, shards: Mapping[str, Array], owned: Iterable[str], manifest: Manifest, spec: ShardSpec
) -> None:
    """Write this rank's shards of a delta into the folder `path`; every rank must call it. The manifest is beside the ranks' files.

    fmt: ckpt or safetensors. owned: names of all tensors of the delta, whichever rank holds them. Raises DeltaError for NaN or infinity.
    """
    with spec.fail_together():
        for name, shard in shards.items():
            refuse_nonfinite(str(path), name, shard)
    filled = manifest.model_copy(update={"owned": tuple(sorted(owned))})

    def describe(reader: ShardedReader) -> dict[str, str]:
        # Read back and joined: shards that should be equal are compared, and the full tensors get their digest.
        return {MANIFEST_KEY: filled.model_copy(update={"digest": LazyTensors(reader).checked_digest()}).to_json()}

    save_shards(path, f"{path.name}.{fmt}", shards, spec, describe)


def _array(tensors: Mapping[str, Array], name: str) -> Array:
    return np.asarray(tensors[name])


def read_delta(path: Path, strategy: Path | None = None) -> Delta:
    """Read a delta file, the final delta of a run folder, a peft adapter folder, or a MindPet checkpoint; with a strategy (its file, or
    the folder of the stages' files) a delta in the files of a job's ranks. The ranks of a petrun job write their strategy beside their
    files.

    A file with a manifest is verified against it: exactly the tensors it lists, with the content it was
    saved with, all finite. Foreign deltas are returned unchanged: `convert.to_net_names` gives them petrun's names.

    Raises DeltaError: no such path, a file that is not a delta, a damaged file, or a manifest that cannot be read.
    """
    path = Path(path)
    with _delta_errors():
        path = _sharded_delta_of_run(path) or path
        strategy = strategy or own_strategy(path)
        if strategy is not None:
            return _read_sharded(path, open_sharded(path, strategy, OPTIMIZER_STATE))
        if is_sharded(path):
            raise DeltaError(
                f"{path}: holds the files of a job's ranks, each with a shard of the tensors",
                hint="Give the job's strategy file, --delta-strategy FILE, or join them first: petrun reshard --from-strategy FILE "
                "--single. Where nothing was sharded, any one rank's file is the whole.",
            )
        if path.is_dir():
            if (path / ADAPTER_CONFIG).exists():
                return _read_adapter(path)
            path = _prefix_checkpoint(path) or _final_delta(path)
        if path.name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG) and (path.parent / ADAPTER_CONFIG).exists():
            return _read_adapter(path.parent)
        reader = open_tensors(path)
        if MANIFEST_KEY in reader.metadata:
            return _read_own(path, reader)
        if _holds_prefix(reader):
            return Delta(path, LazyTensors(reader), origin="chatglm")
        return _read_mindpet(path, reader)


def _holds_prefix(reader: TensorReader) -> bool:
    return bool(reader.names) and all(name.startswith(PREFIX_ENCODER) for name in reader.names)


def _prefix_checkpoint(folder: Path) -> Path | None:
    """Return the prefix in a folder that the trainer of ChatGLM's P-Tuning v2 wrote, where it stands as a model's weights do."""
    found = (folder / name for name in _MODEL_FILES)
    return next((file for file in found if file.is_file() and _holds_prefix(open_tensors(file))), None)


@contextmanager
def _delta_errors() -> Iterator[None]:
    """Raise errors of the file as errors of the delta."""
    try:
        yield
    except WeightsError as error:
        raise DeltaError(error.message, hint=error.hint) from error
    except OSError as error:
        raise DeltaError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _read_sharded(path: Path, reader: ShardedReader) -> Delta:
    """Read a sharded delta. petrun's own has its manifest in the note beside the ranks' folders; others are read as MindPet's."""
    return _read_own(path, reader) if MANIFEST_KEY in reader.metadata else _read_mindpet(path, reader)


def _read_own(path: Path, reader: TensorReader) -> Delta:
    manifest = parse_manifest(str(path), reader.metadata[MANIFEST_KEY])
    lacking = sorted(set(manifest.owned) - set(reader.names))
    foreign = sorted(set(reader.names) - set(manifest.owned))
    if lacking or foreign:
        what = f"lacks {lacking[0]}" if lacking else f"holds {foreign[0]}"
        raise DeltaError(
            f"{path}: {what}, against its manifest ({len(lacking)} lacking, {len(foreign)} foreign tensors)",
            hint="The file was changed after it was saved: use the original.",
        )
    tensors = LazyTensors(reader)
    digest = tensors.checked_digest()
    # No rank of a job knows the digest of the full tensors when it saves its shards.
    unknown = isinstance(reader, ShardedReader) and not manifest.digest
    if digest != manifest.digest and not unknown:
        if isinstance(reader, ShardedReader):
            raise DeltaError(
                f"{path}: put together by {reader.strategy.path}, its tensors are not those it was saved with",
                hint="The strategy is of another job, or a rank's file is damaged: give the strategy file that the job wrote.",
            )
        raise DeltaError(
            f"{path}: its tensors are not those it was saved with",
            hint="The file is damaged: use another copy.",
        )
    return Delta(path, tensors, manifest, "petrun", manifest.algo, dict(manifest.config), digest)


def _read_mindpet(path: Path, reader: TensorReader) -> Delta:
    # Recognised by several of its keys, as bytes inside it may be damaged as well.
    strayed = [key for key, text in reader.metadata.items() if sum(f'"{k}"' in text for k in Manifest.model_fields) > 3]
    if strayed:
        raise DeltaError(
            f"{path}: holds its manifest under the name {strayed[0]!r}, not {MANIFEST_KEY}",
            hint="The file is damaged: use another copy.",
        )
    names = reader.names
    if algorithms({name: reader.info(name).shape for name in names}):
        return Delta(path, LazyTensors(reader), origin="mindpet")
    if any(name.startswith("base_model.model.") for name in names):
        raise DeltaError(
            f"{path}: is a peft adapter's weights without its {ADAPTER_CONFIG}",
            hint=f"Put {ADAPTER_CONFIG} beside it, and give the folder.",
        )
    raise DeltaError(
        f"{path}: is not a delta: it has no petrun manifest, no mindpet_delta tensors, and is not biases alone",
        hint="Give a delta file or a run folder as the delta, and a whole model as --base.",
    )


def _final_delta(folder: Path) -> Path:
    """Return the final delta in a run folder: `<algo>.ckpt` or `.safetensors`; best.* is another checkpoint of the run."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _SUFFIXES)
    finals = [p for p in files if p.stem != "best"]
    steps = [series_and_step(p.stem) for p in finals]
    if len(finals) > 1 and len({series for series, _ in steps}) == 1 and all(step for _, step in steps):
        return newest(finals, path=folder, error=DeltaError, hint="Give one of the files.")
    if len(finals) > 1:
        # The folder may hold other tensors too: a delta names its own algorithm.
        finals = [p for p in finals if _algo_of(p) == p.stem]
    if len(finals) == 1:
        return finals[0]
    if (folder / "config.json").exists() and not finals:
        raise DeltaError(
            f"{folder}: is a model folder, not a delta",
            hint="Give it as --base, and a run folder as --delta.",
        )
    if finals:
        raise DeltaError(
            f"{folder}: holds several deltas: {', '.join(p.name for p in finals)}",
            hint="Give one of the files.",
        )
    if files:
        raise DeltaError(
            f"{folder}: holds no final delta, only {files[0].name}: the run did not end",
            hint=f"To use that, give {files[0]}.",
        )
    raise DeltaError(
        f"{folder}: holds no delta (<algo>.ckpt, <algo>.safetensors or a peft adapter)",
        hint="Give a run folder that finished, a peft adapter's folder, or a delta file.",
    )


def _sharded_delta_of_run(folder: Path) -> Path | None:
    """Return the final delta of a run whose ranks held shards: a folder in the run folder, beside best."""
    if not folder.is_dir():
        return None
    found = [entry for entry in folder.iterdir() if entry.name != "best" and own_strategy(entry) is not None]
    return found[0] if len(found) == 1 and not found[0].name.startswith(".") else None


def _algo_of(path: Path) -> str | None:
    try:
        reader = open_tensors(path)
    except WeightsError:
        return None
    text = reader.metadata.get(MANIFEST_KEY)
    return parse_manifest(str(path), text).algo if text is not None else None


def _read_adapter(folder: Path) -> Delta:
    config_path = folder / ADAPTER_CONFIG
    again = "Fetch the adapter again, or save it again with peft."
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise DeltaError(f"{config_path}: is not UTF-8 text (byte {error.start})", hint=again) from error
    except (ValueError, RecursionError) as error:
        raise DeltaError(f"{config_path}: is not valid JSON ({error})", hint=again) from error
    if not isinstance(config, dict):
        raise DeltaError(f"{config_path}: is not a JSON object", hint=again)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.exists():
        pickled = folder / "adapter_model.bin"
        if pickled.exists():
            raise DeltaError(
                f"{pickled}: is a pickle, which petrun never opens",
                hint="Save it again with peft: `model.save_pretrained(FOLDER, safe_serialization=True)`.",
            )
        raise DeltaError(f"{folder}: lacks {ADAPTER_WEIGHTS}", hint="Fetch the adapter again, with its weights.")
    return Delta(folder, LazyTensors(open_tensors(weights)), origin="peft", config=config)


def check_delta(delta: Delta, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise one DeltaError naming every tensor that is missing, that the net does not have, or that has a wrong shape.

    `expected`: what the net with the delta attached owns, name -> shape.
    """
    shapes = delta.shapes
    missing = sorted(set(expected) - set(shapes))
    unexpected = sorted(set(shapes) - set(expected))
    problems = [f"{name} {_text(expected[name])} is missing. {_near(name, unexpected)}".rstrip() for name in missing]
    takers = missing or list(expected)
    problems += [f"{n} {_text(shapes[n])} fits nothing. {_near(n, takers)}".rstrip() for n in unexpected]
    problems += [
        f"{name} is {_text(shapes[name])}, must be {_text(expected[name])}"
        for name in sorted(set(expected) & set(shapes))
        if tuple(shapes[name]) != tuple(expected[name])
    ]
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise DeltaError(
            "\n  ".join([f"{delta.path}: does not fit this base:", *problems[:_LISTED], *more]),
            hint="Check that --base is the model the delta was trained on.",
        )


def _near(name: str, candidates: list[str]) -> str:
    return perhaps(name, candidates)


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
