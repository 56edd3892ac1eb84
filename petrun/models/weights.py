"""Load a file of named tensors into a net's parameters: strictly, tensor by tensor, with a digest of the content.

Nothing is guessed: every parameter must be found under one of the names that its family declares, every tensor of the file must be used
or be declared benign, and all problems are reported at once.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

import numpy as np
from mindspore import Tensor

from petrun.errors import WeightsError, perhaps
from petrun.models.base import StoredName
from petrun.models.folder import weights_path
from petrun.tensors import Array, TensorReader, content_digest, open_sharded, open_tensors, tensor_digest
from petrun.tensors.known_names import DELTA_PREFIX, OPTIMIZER_STATE
from petrun.tensors.quantised.packed import PackedMatrix
from petrun.tensors.quantised.reader import PackedReader, PackedTensor, held_packed, packed_digest
from petrun.typing import Cell, Parameter

FLOATS = ("float32", "float16", "bfloat16", "float64")

_LISTED = 20


def open_weights(base: Path, strategy: Path | None = None) -> TensorReader:
    """Open a base's tensors: those of one file or folder, or with a strategy those of all ranks' files.

    Raises ModelError and WeightsError, also for ranks' files without a strategy.
    """
    if strategy is not None:
        return open_sharded(base, strategy, OPTIMIZER_STATE)
    return open_tensors(weights_path(base))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The stored tensor of a parameter."""

    stored: str
    """Name in the file."""
    canonical: str
    """Hugging Face name, for the digest."""
    transpose: bool
    """The stored matrix is the transpose of the parameter."""
    canonical_transpose: bool
    """The stored matrix is the transpose of Hugging Face's."""


@dataclass(kw_only=True)
class Match:
    """Assignment of a file's tensors to a family's parameters."""

    found: dict[str, Source] = field(default_factory=dict)
    repeats: dict[str, list[Source]] = field(default_factory=dict)
    """Parameter -> further tensors that must hold the same bytes."""
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def match(
    reader: TensorReader, names: Mapping[str, StoredName], prefixes: Sequence[str], ignored: Sequence[str]
) -> Match:
    """Find each parameter's tensor: by its Hugging Face name (with or without the task model's prefix, with the old names gamma
    and beta), or by the net's own name, in the net's own layout."""
    result = Match()
    by_name = {n: ours for ours, s in names.items() for n in (s.name, *s.also)}
    taken: dict[str, str] = {}
    for stored in reader.names:
        modern = _modern(stored)
        if reader.kind == "ckpt" and any(fnmatchcase(stored, p) for p in OPTIMIZER_STATE):
            continue
        full = next((p + modern for p in prefixes if p + modern in by_name), None)
        if full is not None:
            ours = by_name[full]
            source = Source(
                stored=stored, canonical=names[ours].name, transpose=names[ours].transpose, canonical_transpose=False
            )
        elif modern in names:
            ours = modern
            source = Source(
                stored=stored, canonical=names[ours].name, transpose=False, canonical_transpose=names[ours].transpose
            )
        else:
            if not any(fnmatchcase(p + modern, pattern) for p in prefixes for pattern in ignored):
                result.unknown.append(stored)
            continue
        declared = full or ours
        if ours not in result.found:
            result.found[ours] = source
        elif declared == taken[ours]:
            result.problems.append(f"{result.found[ours].stored} and {stored} are the same parameter")
        else:
            result.repeats.setdefault(ours, []).append(source)
        taken.setdefault(ours, declared)
    if any(DELTA_PREFIX in name for name in result.unknown):
        raise WeightsError(
            f"{reader.path}: holds the tensors of a delta, not of a base",
            hint="Give it as --delta, and the base it was trained on as --base.",
        )
    return result


def _modern(stored: str) -> str:
    """Rename LayerNorm.gamma and .beta, of files converted from TensorFlow, to weight and bias."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if stored.endswith(old):
            return stored.removesuffix(old) + new
    return stored


def absent(matched: Match, names: Mapping[str, StoredName]) -> tuple[str, ...]:
    """Return the optional parameters of cells that the file lacks completely. A cell that is there in part is a mismatch, not absent."""
    cells = {ours.rpartition(".")[0] for ours in matched.found}
    return tuple(
        ours
        for ours, s in names.items()
        if s.optional and ours not in matched.found and ours.rpartition(".")[0] not in cells
    )


def check(
    reader: TensorReader, matched: Match, names: Mapping[str, StoredName], net: Cell, fresh: Iterable[str] = ()
) -> None:
    """Raise one WeightsError with every tensor that is missing, unknown, given twice, or of a wrong shape or type."""
    parameters = {p.name: p for p in net.get_parameters()}
    known = {n for s in names.values() for n in (s.name, *s.also)}
    problems = list(matched.problems)
    if not matched.found and reader.names:
        held = ", ".join(reader.names[:3]) + (", ..." if len(reader.names) > 3 else "")
        raise WeightsError(
            f"{reader.path}: holds none of the model's {len(parameters)} tensors; it holds {held}",
            hint="Check that the weights and config.json (or the model's code) belong together; a delta is given as --delta.",
        )
    for ours in sorted(set(parameters) - set(matched.found) - set(fresh)):
        shape = _shape(parameters[ours].shape, names[ours].transpose)
        near = perhaps(names[ours].name, matched.unknown)
        problems.append(f"{names[ours].name} {shape} is missing. {near}".rstrip())
    for stored in matched.unknown:
        near = perhaps(stored, known)
        problems.append(f"{stored} {_shape(reader.info(stored).shape)} belongs to no parameter. {near}".rstrip())
    for ours, source in matched.found.items():
        for each in (source, *matched.repeats.get(ours, [])):
            problems += _misfits(reader, each, parameters[ours])
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise WeightsError(
            "\n  ".join([f"{reader.path}: does not fit the model:", *problems[:_LISTED], *more]),
            hint="Check that the weights and config.json (or the model's code) belong together.",
        )


def misshapen(reader: TensorReader, matched: Match, net: Cell, heads: Sequence[str]) -> list[str]:
    """List the tensors whose shape differs from the net's, a line each. `heads`: patterns of parameters whose shape the data decides."""
    parameters = {p.name: p for p in net.get_parameters()}
    return [
        problem
        for ours, source in matched.found.items()
        if not any(fnmatchcase(ours, pattern) for pattern in heads)
        for each in (source, *matched.repeats.get(ours, []))
        for problem in _misshapen(reader, each, parameters[ours])
    ]


def _misshapen(reader: TensorReader, source: Source, parameter: Parameter) -> list[str]:
    shape = reader.info(source.stored).shape
    wanted = tuple(reversed(parameter.shape)) if source.transpose else tuple(parameter.shape)
    return [] if shape == wanted else [f"{source.stored} is {_shape(shape)}, must be {_shape(wanted)}"]


def _misfits(reader: TensorReader, source: Source, parameter: Parameter) -> list[str]:
    info = reader.info(source.stored)
    problems = _misshapen(reader, source, parameter)
    kind = _kind(parameter)
    if kind not in FLOATS and info.dtype != kind:
        problems.append(f"{source.stored} is {info.dtype}, must be {kind}")
    elif kind in FLOATS and info.dtype not in FLOATS:
        problems.append(
            f"{source.stored} is {info.dtype}, must be one of {', '.join(FLOATS)}: quantised weights are not supported"
        )
    return problems


def _kind(parameter: Parameter) -> str:
    """ "float32", "int64", ...: as files spell it."""
    return str(parameter.dtype).lower()


def _shape(shape: Sequence[int], transpose: bool = False) -> str:
    sizes = list(reversed(shape)) if transpose else list(shape)
    return "(" + ", ".join(map(str, sizes)) + ")"


@dataclass(frozen=True, kw_only=True)
class _Read:
    values: Array
    """In the parameter's layout and type; for a bfloat16 parameter float32."""
    shape: tuple[int, ...]
    """Hugging Face's."""
    digest: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class BaseDigests:
    """What a base is known by."""

    content: str
    """Of the tensors as the net holds them."""
    original: str = ""
    """Of the full-precision tensors that were quantised as they were read; "" where none was."""


Place = Callable[[str, PackedMatrix], None]
"""Puts a matrix in codes into the layer that owns a parameter."""


def load(
    reader: TensorReader, matched: Match, net: Cell, undigested: Sequence[str] = (), place: Place | None = None
) -> BaseDigests:
    """Put the tensors into the net's parameters, matrices in codes by `place`, and return the base's digests.

    The digest is over (Hugging Face name, stored dtype, Hugging Face shape, SHA-256 of the stored bytes) of every
    tensor but those whose parameter matches a pattern in `undigested`: task heads, which every delta has itself. Of a matrix in codes
    the form stands for the dtype, and the codes and scales for the bytes: the same whether a file holds them or they are made here.
    Reading, hashing and converting run in threads, a few tensors ahead of the net.
    Raises WeightsError naming every tensor that holds NaN or Inf, or values that the parameter's type cannot hold.
    """
    parameters = {p.name: p for p in net.get_parameters()}
    lines: list[Line] = []
    original: list[Line] = []
    problems: list[str] = []
    for ours, read in _reads(reader, matched, parameters):
        source = matched.found[ours]
        if read.problem:
            problems.append(read.problem)
        else:
            parameters[ours].set_data(Tensor(read.values, parameters[ours].dtype))
        if not any(fnmatchcase(ours, p) for p in undigested):
            lines.append((source.canonical, reader.info(source.stored).dtype, read.shape, read.digest))
        for again in matched.repeats.get(ours, []):
            if tensor_digest(reader, again.stored) != read.digest:
                problems.append(
                    f"{again.stored} differs from {source.stored}, though config.json ties them "
                    "(tie_word_embeddings = true)"
                )
    assert place is not None or not isinstance(reader, PackedReader)
    for ours, tensor in _packed(reader, matched).items():
        packed = _pack(reader, matched.found[ours], tensor)
        problems += [packed.problem] if packed.problem else []
        lines.append(packed.line)
        original += [packed.original] if packed.original else []
        if place is not None and not packed.problem:
            place(ours, packed.matrix)
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise WeightsError(
            f"{reader.path}: " + "\n  ".join([*problems[:_LISTED], *more]),
            hint="The base is damaged or does not fit this type: fetch it again, or use another copy.",
        )
    quantised = {line[0] for line in original}
    full = [*(line for line in lines if line[0] not in quantised), *original]
    return BaseDigests(content=content_digest(lines), original=content_digest(full) if original else "")


Line = tuple[str, str, tuple[int, ...], str]
"""A tensor in a digest: Hugging Face name, dtype, shape, digest of its bytes."""


@dataclass(frozen=True, kw_only=True)
class _Packed:
    matrix: PackedMatrix
    line: Line
    original: Line | None
    problem: str


def _packed(reader: TensorReader, matched: Match) -> dict[str, PackedTensor]:
    """Return the parameters that a net holds in codes."""
    found = {ours: held_packed(reader, source.stored) for ours, source in matched.found.items()}
    return {ours: tensor for ours, tensor in found.items() if tensor is not None}


def _pack(reader: TensorReader, source: Source, tensor: PackedTensor) -> _Packed:
    """Read a matrix in codes, or quantise one. One matrix in full precision is in memory at a time."""
    original, problem = None, ""
    if tensor.pack is None or not isinstance(reader, PackedReader):
        matrix = tensor.load()
        if not all(np.isfinite(values).all() for values in matrix.arrays.values() if values.dtype.kind == "f"):
            problem = f"{source.stored} has scales that are NaN or Inf"
    else:
        read = _read(reader.inner, source, "float32")
        original = (source.canonical, tensor.dtype, read.shape, read.digest)
        problem = read.problem
        matrix = tensor.pack(np.zeros_like(read.values) if problem else read.values)
    return _Packed(matrix=matrix, line=_line(source, matrix), original=original, problem=problem)


def _line(source: Source, matrix: PackedMatrix) -> Line:
    return source.canonical, matrix.form, matrix.shape, packed_digest(matrix)


def stored_digest(reader: TensorReader, matched: Match, undigested: Sequence[str] = ()) -> str:
    """Compute the digest of the content that `load` returns without a net, for a merge, which never builds one."""
    chosen = [(o, s) for o, s in matched.found.items() if not any(fnmatchcase(o, p) for p in undigested)]

    def line(source: Source) -> Line:
        tensor = held_packed(reader, source.stored)
        if tensor is not None:
            return _line(source, tensor.load())
        info = reader.info(source.stored)
        if source.canonical_transpose:
            read = _read(reader, source, info.dtype)
            return source.canonical, info.dtype, read.shape, read.digest
        return source.canonical, info.dtype, info.shape, tensor_digest(reader, source.stored)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return content_digest(pool.map(line, [source for _, source in chosen]))


def _reads(reader: TensorReader, matched: Match, parameters: Mapping[str, Parameter]) -> Iterator[tuple[str, _Read]]:
    """Yield every found parameter with its values, with at most a few tensors in memory."""
    workers = min(4, os.cpu_count() or 1)
    waiting: deque[tuple[str, Future[_Read]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        packed = _packed(reader, matched)
        for ours, source in matched.found.items():
            if ours in packed:
                continue
            waiting.append((ours, pool.submit(_read, reader, source, _kind(parameters[ours]))))
            if len(waiting) > workers:
                ready, future = waiting.popleft()
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()


def _read(reader: TensorReader, source: Source, kind: str) -> _Read:
    """Read, hash, check and convert one tensor, in its thread."""
    values = reader.read(source.stored)
    stored = reader.info(source.stored).dtype
    canonical = np.ascontiguousarray(values.T) if source.canonical_transpose else values
    if stored != "bfloat16":
        digest = sha256(canonical.astype(canonical.dtype.newbyteorder("<"), copy=False).data).hexdigest()
    elif source.canonical_transpose:
        digest = sha256((canonical.view(np.uint32) >> np.uint32(16)).astype("<u2").data).hexdigest()
    else:
        digest = tensor_digest(reader, source.stored)
    shape = canonical.shape
    if source.transpose:
        values = np.ascontiguousarray(values.T)
    if kind not in FLOATS:
        return _Read(values=values, shape=shape, digest=digest, problem="")
    finite = np.isfinite(values)
    if not finite.all():
        bad = values.size - int(finite.sum())
        return _Read(
            values=values,
            shape=shape,
            digest=digest,
            problem=f"{source.stored} holds {bad} NaN or Inf among {values.size} values",
        )
    with np.errstate(over="ignore"):
        narrow = values.astype({"float16": np.float16, "float64": np.float64}.get(kind, np.float32), copy=False)
    if narrow.dtype.itemsize < values.dtype.itemsize and not np.isfinite(narrow).all():
        largest = np.abs(values).max()
        return _Read(
            values=values,
            shape=shape,
            digest=digest,
            problem=f"{source.stored} holds {largest:.3g}, beyond the range of {kind}",
        )
    return _Read(values=narrow, shape=shape, digest=digest, problem="")


def init_fresh(net: Cell, names: Sequence[str], seed: int, spread: float) -> None:
    """Initialise weights as normal(0, spread), biases as 0. Each is a pure function of (seed, its name), in any order."""
    parameters = {p.name: p for p in net.get_parameters()}
    for name in names:
        parameter = parameters[name]
        if name.endswith(".bias"):
            values = np.zeros(parameter.shape, np.float32)
        else:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            values = (rng.standard_normal(parameter.shape) * spread).astype(np.float32)
        parameter.set_data(Tensor(values, parameter.dtype))
