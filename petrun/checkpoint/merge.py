"""Merge a delta into its base: a model that needs no delta, written tensor by tensor.

W_merged = update(W), in float32, then rounded to the type the base stores. For LoRA: W + s B A. One tensor
is in memory at a time; what was written is read back and compared before the output takes its name, and a
failure leaves nothing behind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.hf_config import merged_config, write_companions
from petrun.checkpoint.merge_checks import check_base, check_room
from petrun.checkpoint.tied import names_with_delta, owner
from petrun.delta import method_of_tensor
from petrun.delta.forms import LayerTensor
from petrun.delta.method import ALL, Update
from petrun.errors import DeltaError, OutputError, perhaps
from petrun.models.base import StoredName, shared_matrices
from petrun.models.weights import Source, match
from petrun.tensors import (
    Array,
    TensorEntry,
    TensorInfo,
    TensorReader,
    atomic_folder,
    content_digest,
    write_ckpt,
    write_safetensors,
    write_safetensors_folder,
)
from petrun.tensors.atomic import refuse_occupied
from petrun.tensors.dtypes import encoded, holds_nonfinite
from petrun.tensors.known_names import OPTIMIZER_STATE
from petrun.tensors.rows import row_blocks
from petrun.tensors.stacked import matrix_chunks, read_matrix
from petrun.typing import JsonObject

FLOATS = ("float32", "float16", "bfloat16", "float64")
_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}
_HEADS = ("classifier.weight", "score.weight")
_LISTED = 20


@dataclass(frozen=True)
class Merged:
    """The result of a merge."""

    path: Path
    tensors: int
    changed: tuple[str, ...]
    """Parameters that differ from the base's, the delta's own heads among them."""
    nbytes: int
    digest: str
    """SHA-256 over all tensors written: names, types, shapes and bytes."""
    untied: bool = False
    """Whether layers that share a matrix in the base have one each in the merged model."""


@dataclass(frozen=True, kw_only=True)
class _Output:
    """One tensor to be written."""

    ours: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    source: Source | None
    """The base's tensor; None where only the delta has it."""
    transposed: bool
    """Whether it is written as the transpose of the parameter."""
    index: int | None = None
    """Which matrix of a stack it is; None: the parameter as a whole."""


@dataclass(frozen=True, kw_only=True)
class MergeBase:
    """The base of a merge: its tensors, and the family's names for them."""

    reader: TensorReader
    names: Mapping[str, StoredName]
    """Net parameter -> its Hugging Face name; {} for a net of the user's own, whose parameters keep their names."""
    prefixes: Sequence[str] = ("",)
    ignored: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """The contents of a merged folder beside its weights, and how the weights are split into files."""

    config: JsonObject
    """The base's config.json."""
    architecture: str | None = None
    """The class of transformers whose names the tensors have; None: that of config.json."""
    companions: Path | None = None
    """The folder whose tokenizer files are copied."""
    labels: Sequence[str] = ()
    """Class names of the delta's head."""
    max_shard_bytes: int = 5_000_000_000
    complete: Callable[[Path], None] | None = None
    """Called with the folder that holds all files, before it takes its name."""


def merge_to_folder(
    base: MergeBase, delta: Delta, update: Update, out: Path, folder: FolderSettings, *, dtype: str | None = None
) -> Merged:
    """Write a Hugging Face folder that transformers loads: weights (sharded where large), config.json, the
    tokenizer's files.

    delta: in the net's names (`convert.to_net_names`). update: the method's `merge`. dtype: the floating type to write instead of the
    base's. `out` must not exist or be an empty folder.

    Raises DeltaError: a tensor of the delta fits nothing, has a wrong shape, or the merged values do not
    fit the type; WeightsError: the base lacks or holds something unexpected; OutputError: `out` is
    occupied, too small a disk, or writing failed.
    """
    refuse_occupied(out)
    merger = _Merger(base, delta, update, dtype, hugging_face=True)
    check_room(out, merger.nbytes)
    config = merged_config(
        folder.config,
        architecture=folder.architecture,
        classes=merger.classes,
        labels=folder.labels,
        dtype=dtype,
        untied=bool(merger.shared),
    )
    with atomic_folder(out) as path:
        # transformers 4 refuses safetensors files that do not say which framework wrote them.
        header = {"format": "pt"}
        digests = write_safetensors_folder(path, merger.entries(), header, max_shard_bytes=folder.max_shard_bytes)
        merger.check_used()
        write_companions(path, config, folder.companions)
        if folder.complete is not None:
            folder.complete(path)
    return merger.report(out, digests)


def merge_to_file(base: MergeBase, delta: Delta, update: Update, out: Path, *, dtype: str | None = None) -> Merged:
    """Write one file: .safetensors in Hugging Face's names and layout, .ckpt in the net's own, for
    load_checkpoint.

    A base of a user's own cell has no Hugging Face names (`base.names` is empty): its parameters keep theirs in
    both formats. An existing file is not replaced. Raises as `merge_to_folder` does.
    """
    if out.suffix not in (".ckpt", ".safetensors"):
        raise OutputError(
            f"{out}: a merged file ends in .ckpt or .safetensors", hint="A path without an ending makes a folder."
        )
    if out.exists():
        raise OutputError(f"{out}: exists", hint="Choose another --out, or remove it first.")
    merger = _Merger(base, delta, update, dtype, hugging_face=out.suffix == ".safetensors")
    check_room(out, merger.nbytes)
    if out.suffix == ".ckpt":
        digests = write_ckpt(out, merger.entries(), check=merger.check_used)
    else:
        digests = write_safetensors(out, merger.entries(), {"format": "pt"}, check=merger.check_used)
    return merger.report(out, digests)


class _Merger:
    """Plans a merge, and computes it one tensor at a time."""

    def __init__(self, base: MergeBase, delta: Delta, update: Update, dtype: str | None, *, hugging_face: bool) -> None:
        self.base = base.reader
        self.delta = delta
        self.update = update
        self.shapes = delta.shapes
        names = base.names or _own_names(self.base)
        self.matched = match(self.base, names, base.prefixes, base.ignored)
        self.names = names_with_delta(names, self.shapes)
        self.shared = shared_matrices(names) if self.names is not names else {}
        """Weight of a layer that gets a matrix of its own -> the weight that it shared."""
        for own, ours in self.shared.items():
            self.matched.repeats.pop(ours, None)
            if ours in self.matched.found:
                self.matched.found[own] = self.matched.found[ours]
        self.changed: set[str] = set()
        self.layers = {owner(n).rpartition(".")[0] for n in self.shapes if n not in self.names}
        """Paths of the layers that the delta adapts."""
        if dtype is not None and dtype not in FLOATS:
            raise OutputError(f"{dtype}: not a floating type to write", hint=f"Known: {', '.join(FLOATS)}.")
        check_base(self.base, self.matched, self.names, self.shapes)
        self.outputs = self._plan(dtype, hugging_face)
        self._check_fit()

    @property
    def nbytes(self) -> int:
        return sum(TensorInfo(output.shape, output.dtype).nbytes for output in self.outputs)

    @property
    def classes(self) -> int | None:
        """The number of classes of the delta's own head."""
        heads = [ours for ours, stored in self.names.items() if stored.name in _HEADS and ours in self.shapes]
        return self.shapes[heads[0]][0] if heads else None

    def entries(self) -> list[TensorEntry]:
        return [TensorEntry(p.name, p.shape, p.dtype, partial(self._load, p)) for p in self.outputs]

    def report(self, path: Path, digests: Mapping[str, str]) -> Merged:
        lines = [(p.name, p.dtype, p.shape, digests[p.name]) for p in self.outputs]
        return Merged(
            path, len(self.outputs), tuple(sorted(self.changed)), self.nbytes, content_digest(lines), bool(self.shared)
        )

    def _plan(self, dtype: str | None, hugging_face: bool) -> list[_Output]:
        floats = Counter(
            info.dtype for s in self.matched.found.values() if (info := self.base.info(s.stored)).dtype in FLOATS
        )
        usual = dtype or (floats.most_common(1)[0][0] if floats else "float32")
        outputs = []
        for ours, stored in self.names.items():
            source = self.matched.found.get(ours)
            shape = self.shapes[ours] if ours in self.shapes else self._parameter_shape(source) if source else ()
            own = self.base.info(source.stored).dtype if source else usual
            transposed = stored.transpose and hugging_face
            written = (dtype or own) if own in FLOATS else own
            outer = tuple(reversed(shape)) if transposed else tuple(shape)
            if stored.parts and hugging_face:
                outputs += [
                    _Output(
                        ours=ours, name=name, shape=outer[1:], dtype=written, source=source, transposed=False, index=i
                    )
                    for i, name in enumerate(stored.parts)
                ]
                continue
            names = [stored.name if hugging_face else ours]
            if hugging_face:
                held = [s.stored for s in (source, *self.matched.repeats.get(ours, [])) if s is not None]
                names += [again for again in held if again in stored.also]
            outputs += [
                _Output(ours=ours, name=name, shape=outer, dtype=written, source=source, transposed=transposed)
                for name in names
            ]
        return outputs

    def _parameter_shape(self, source: Source) -> tuple[int, ...]:
        shape = self.base.info(source.stored).shape
        return tuple(reversed(shape)) if source.transpose else shape

    def _check_fit(self) -> None:
        """Require every tensor of the delta to be a parameter, or to belong to a layer, of the base's shape."""
        problems = []
        for name, shape in self.shapes.items():
            leaf = name.rpartition(".")[2]
            if name in self.names:
                problems += self._misfit(name, shape)
                continue
            weight = owner(name)
            source = self.matched.found.get(weight)
            if source is None:
                problems.append(f"{name} fits nothing. {perhaps(weight, self.names)}".rstrip())
                continue
            if (method := method_of_tensor(name)) is not None:
                problems += self._unlike_layer(name, shape, method.tensors[leaf], source)
        if problems:
            more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
            raise DeltaError(
                "\n  ".join([f"{self.delta.path}: does not fit {self.base.path}:", *problems[:_LISTED], *more]),
                hint="Check that --base is the model the delta was trained on.",
            )

    def _unlike_layer(self, name: str, shape: tuple[int, ...], form: LayerTensor, source: Source) -> list[str]:
        problems = []
        if form.into_bias and f"{owner(name).removesuffix('weight')}bias" not in self.names:
            problems.append(f"{name}: its layer has no bias in the base that could take it up")
        sides = (*self._parameter_shape(source), 0, 0)
        for axis, width, word in ((form.outputs, sides[0], "outputs"), (form.inputs, sides[1], "inputs")):
            if axis is not None and (len(shape) != form.axes or shape[axis] != width):
                problems.append(f"{name} is {list(shape)}, its layer has {width} {word}")
        return problems

    def _misfit(self, name: str, shape: tuple[int, ...]) -> list[str]:
        source = self.matched.found.get(name)
        # Only a task head may differ from the base's: another number of classes.
        if source is None or self.names[name].optional or self._parameter_shape(source) == tuple(shape):
            return []
        return [f"{name} is {list(shape)}, the base's is {list(self._parameter_shape(source))}"]

    def _delta_tensor(self, ours: str) -> str | None:
        """Return the delta's tensor that replaces the base's: the parameter itself, or the one that its layer shares."""
        return next((name for name in (ours, self.shared.get(ours, "")) if name in self.shapes), None)

    def _load(self, output: _Output) -> Array | Iterator[bytes | memoryview]:
        if self._stays(output):
            return self._copied(output)
        source = output.source
        plain = (
            source is not None
            and not source.transpose
            and not output.transposed
            and output.index is None
            and self._delta_tensor(output.ours) is None
        )
        if plain and len(output.shape) == 2 and output.dtype in FLOATS and self.base.kind in ("safetensors", "folder"):
            return self._in_rows(output)
        return self._merged(output)

    def _in_rows(self, output: _Output) -> Iterator[memoryview]:
        """Yield a matrix a few rows at a time, which fit the processor's cache."""
        assert output.source is not None
        for rows, values in row_blocks(self.base, output.source.stored):
            merged = self._updated(output.ours, values, rows)
            self._check_range(output, merged)
            yield encoded(merged, output.dtype)

    def _stays(self, output: _Output) -> bool:
        """Return whether the base's bytes are those of the output: nothing of the delta belongs to the layer, and its form is the same."""
        source = output.source
        return (
            source is not None
            and self._delta_tensor(output.ours) is None
            and output.ours.rpartition(".")[0] not in self.layers
            and source.transpose == output.transposed
            and self.base.info(source.stored).dtype == output.dtype
            and self.base.kind in ("safetensors", "folder")
        )

    def _copied(self, output: _Output) -> Iterator[bytes | memoryview]:
        """Yield the base's own bytes, a few megabytes at a time."""
        assert output.source is not None
        for stored in matrix_chunks(self.base, output.source.stored, output.index):
            if output.dtype in FLOATS and holds_nonfinite(stored, output.dtype):
                raise _not_finite(output)
            yield stored

    def _merged(self, output: _Output) -> Array:
        brought = self._delta_tensor(output.ours)
        if brought is not None:
            # The delta's own value replaces the base's; a low-rank part may be added to it.
            stack = self.delta.tensors[brought]
            values = stack if output.index is None else stack[output.index]
            self.changed.add(output.ours)
        else:
            assert output.source is not None
            stored = read_matrix(self.base, output.source.stored, output.index)
            values = stored.T if output.source.transpose else stored
        if values.dtype.kind == "f":
            values = self._updated(output.ours, values)
            self._check_range(output, values)
        return np.ascontiguousarray(values.T) if output.transposed else values

    def _updated(self, ours: str, values: Array, rows: slice = ALL) -> Array:
        given = np.ascontiguousarray(values, np.float32)
        merged = self.update(ours, given, rows)
        if merged is given:
            return values
        if merged.shape != given.shape:
            raise DeltaError(f"{self.delta.path}: changes the shape of {ours} from {given.shape} to {merged.shape}")
        self.changed.add(ours)
        return merged

    def _check_range(self, output: _Output, values: Array) -> None:
        # NaN comes through maximum and minimum; neither needs a copy.
        with np.errstate(invalid="ignore"):
            ends = float(values.max(initial=0.0)), float(values.min(initial=0.0))
        if not all(map(math.isfinite, ends)):
            raise _not_finite(output)
        largest = max(ends[0], -ends[1])
        if largest > _LARGEST.get(output.dtype, np.inf):
            raise DeltaError(
                f"{output.name}: holds {largest:.6g}, which {output.dtype} cannot",
                hint="Merge into float32 or bfloat16.",
            )

    def check_used(self) -> None:
        """Raises DeltaError where a tensor of the delta has changed nothing."""
        unused = sorted(n for n in self.shapes if n not in self.names and owner(n) not in self.changed)
        if unused:
            raise DeltaError(
                f"{self.delta.path}: {len(unused)} tensors were not used by the merge, the first is {unused[0]}",
                hint="The delta's settings (targets, algorithm) and its tensors do not agree.",
            )


def _not_finite(output: _Output) -> DeltaError:
    return DeltaError(
        f"{output.name}: the merged tensor holds NaN or infinity",
        hint="Check the base and the delta with `petrun inspect`.",
    )


def _own_names(base: TensorReader) -> dict[str, StoredName]:
    """Plan the outputs of a user's own cell: every parameter under its own name, without the optimizer's state."""
    kept = [n for n in base.names if not any(fnmatchcase(n, pattern) for pattern in OPTIMIZER_STATE)]
    return {name: StoredName(name=name) for name in kept}
