"""Write tensors one at a time, atomically and verified: no half-written file is left.

After the bytes are on the disk they are read back and compared, tensor by tensor, before the file is renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from petrun.errors import OutputError
from petrun.tensors.atomic import atomic_file, flush, output_error
from petrun.tensors.ckpt_file import scan_ckpt
from petrun.tensors.digest import tensor_digest
from petrun.tensors.dtypes import BY_NAME, Array, dtype_of, encoded
from petrun.tensors.folder import INDEX, WHOLE
from petrun.tensors.reader import TensorReader
from petrun.tensors.safetensors_file import MAX_HEADER_BYTES, scan_safetensors
from petrun.tensors.table import Table, TensorInfo

_PART_BYTES = 512 << 20
"""MindSpore's own limit for one Value of a checkpoint: protobuf readers refuse messages near 2 GB."""


class TensorEntry(NamedTuple):
    """A tensor to be written, and the function that loads it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array | bytes | Iterator[bytes | memoryview]]
    """Returns an array of `shape` (converted to `dtype`), or the stored bytes themselves, at once or in chunks."""


def array_entries(arrays: Mapping[str, Array], dtype: str | None = None) -> list[TensorEntry]:
    """Return entries for arrays in memory, each in its own type or all floating ones in `dtype`."""

    def entry(name: str, array: Array) -> TensorEntry:
        own = dtype_of(array)
        return TensorEntry(name, array.shape, dtype if dtype and BY_NAME[own].floating else own, lambda: array)

    return [entry(name, array) for name, array in arrays.items()]


def write_safetensors(
    path: Path,
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str] | None = None,
    *,
    check: Callable[[], None] | None = None,
) -> dict[str, str]:
    """Write one .safetensors file. Returns the SHA-256 (hex) of each tensor's bytes.

    `check` is called when all tensors are written; no file is left where it raises.
    Raises OutputError: the file cannot be written, or what was read back differs from what was written.
    """
    path = Path(path)
    # Wider elements first, as the safetensors library does: each tensor then starts at a multiple of its
    # element size.
    ordered = sorted(_checked(entries), key=lambda e: -BY_NAME[e.dtype].bits)
    header = _safetensors_header(path, ordered, dict(metadata or {}))
    digests: dict[str, str] = {}
    with atomic_file(path) as (file, temporary):
        file.write(len(header).to_bytes(8, "little") + header)
        for entry in ordered:
            digests[entry.name] = _write_chunks(file, entry)
        if check is not None:
            check()
        _verify(path, file, temporary, digests, scan_safetensors)
    return digests


def write_ckpt(
    path: Path,
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str] | None = None,
    *,
    part_bytes: int = _PART_BYTES,
    leading: bool = False,
    check: Callable[[], None] | None = None,
) -> dict[str, str]:
    """Write one MindSpore checkpoint; `metadata` as `append_dict` strings. Returns each tensor's SHA-256
    (hex).

    mindspore.load_checkpoint reads it. Tensors over `part_bytes` are split as MindSpore splits them. No
    checksum is appended: strict protobuf readers, MindSpore's older ones among them, would refuse the file.

    leading: the strings come first, so that a file that ends between two tensors still says what it should hold.
    `check` and Raises as for `write_safetensors`; OutputError also for an element type that checkpoints do
    not have.
    """
    path = Path(path)
    ready = _checked(entries)
    for entry in ready:
        if not BY_NAME[entry.dtype].ckpt:
            raise OutputError(
                f"{path}: a .ckpt cannot hold {entry.dtype} (tensor {entry.name})", hint="Write .safetensors."
            )
    digests: dict[str, str] = {}
    with atomic_file(path) as (file, temporary):
        if leading:
            _write_strings(file, metadata or {})
        for entry in ready:
            data = _data(entry)
            digests[entry.name] = hashlib.sha256(data).hexdigest()
            view, kind = memoryview(data), BY_NAME[entry.dtype].ckpt
            for start in range(0, max(len(data), 1), part_bytes):
                _write_value(file, entry.name, entry.shape, kind, view[start : start + part_bytes])
        if not leading:
            _write_strings(file, metadata or {})
        if check is not None:
            check()
        _verify(path, file, temporary, digests, scan_ckpt)
    return digests


def write_safetensors_folder(
    folder: Path,
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str] | None = None,
    *,
    max_shard_bytes: int = 5_000_000_000,
) -> dict[str, str]:
    """Write model.safetensors, or shards of at most `max_shard_bytes` and their index, into an existing
    folder.

    A tensor larger than a shard gets a shard of its own. Returns the SHA-256 (hex) of each tensor's bytes.
    Raises OutputError.
    """
    shards: list[list[TensorEntry]] = [[]]
    filled = 0
    for entry in _checked(entries):
        size = TensorInfo(entry.shape, entry.dtype).nbytes
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += size
    if len(shards) == 1:
        return write_safetensors(folder / WHOLE, shards[0], metadata)
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    digests = _write_shards(folder, dict(zip(files, shards, strict=True)), metadata)
    placed = {entry.name: file for file, shard in zip(files, shards, strict=True) for entry in shard}
    total = sum(TensorInfo(entry.shape, entry.dtype).nbytes for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    with atomic_file(folder / INDEX) as (out, _):
        out.write((json.dumps(index, indent=2) + "\n").encode())
    return digests


def _write_shards(
    folder: Path, shards: Mapping[str, list[TensorEntry]], metadata: Mapping[str, str] | None
) -> dict[str, str]:
    """Write two shards at a time: while one waits for the disk, the next is computed. Where one fails the other stops at its next
    tensor."""
    stopped = threading.Event()

    def guarded(entry: TensorEntry) -> TensorEntry:
        def load() -> Array | bytes | Iterator[bytes | memoryview]:
            if stopped.is_set():
                raise OutputError(f"{folder}: writing was stopped")
            return entry.load()

        return entry._replace(load=load)

    digests: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        try:
            written = [
                pool.submit(write_safetensors, folder / file, [guarded(entry) for entry in shard], metadata)
                for file, shard in shards.items()
            ]
            for each in as_completed(written):
                digests.update(each.result())
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return digests


def _checked(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    ready = [TensorEntry(*entry) for entry in entries]
    names = [entry.name for entry in ready]
    if len(set(names)) != len(names):
        raise ValueError(f"written twice: {sorted({n for n in names if names.count(n) > 1})}")
    for entry in ready:
        if entry.dtype not in BY_NAME:
            raise ValueError(f"{entry.name}: unknown element type {entry.dtype}")
    return ready


def _write_chunks(file: BinaryIO, entry: TensorEntry) -> str:
    """Write a tensor's bytes chunk by chunk. Returns their SHA-256."""
    digest, count = hashlib.sha256(), 0
    for chunk in _chunks(entry):
        digest.update(chunk)
        file.write(chunk)
        count += len(chunk)
    _check_length(entry, count)
    return digest.hexdigest()


def _data(entry: TensorEntry) -> bytes | memoryview:
    chunks = list(_chunks(entry))
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    _check_length(entry, len(data))
    return data


def _chunks(entry: TensorEntry) -> Iterator[bytes | memoryview]:
    loaded = entry.load()
    if isinstance(loaded, bytes):
        yield loaded
    elif isinstance(loaded, Iterator):
        yield from loaded
    else:
        if loaded.shape != tuple(entry.shape):
            raise ValueError(f"{entry.name}: announced as {entry.shape}, came as {loaded.shape}")
        yield encoded(loaded, entry.dtype)


def _check_length(entry: TensorEntry, count: int) -> None:
    expected = TensorInfo(tuple(entry.shape), entry.dtype).nbytes
    if count != expected:
        raise ValueError(f"{entry.name}: {expected} bytes announced, {count} came")


def _safetensors_header(path: Path, entries: Sequence[TensorEntry], metadata: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for entry in entries:
        end = offset + TensorInfo(tuple(entry.shape), entry.dtype).nbytes
        header[entry.name] = {
            "dtype": BY_NAME[entry.dtype].safetensors,
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER_BYTES:
        raise OutputError(
            f"{path}: its header would need {len(encoded)} bytes, over the format's limit",
            hint="Write a .ckpt.",
        )
    return encoded


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _write_strings(file: BinaryIO, metadata: Mapping[str, str]) -> None:
    for key, text in metadata.items():
        # At least one character: numpy has no strings of length 0.
        _write_value(file, key, (0,), "str", memoryview((text or "\0").encode("utf-32-le")))


def _write_value(file: BinaryIO, tag: str, dims: Sequence[int], tensor_type: str, content: memoryview) -> None:
    """Write one Value message (see ckpt_file.py); the content is written separately, so that it is not copied."""
    tensor = b"".join(b"\x08" + _varint(size) for size in dims) + _delimited(2, tensor_type.encode())
    tensor += _varint(3 << 3 | 2) + _varint(len(content))
    value = _delimited(1, tag.encode()) + _varint(2 << 3 | 2) + _varint(len(tensor) + len(content)) + tensor
    file.write(_varint(1 << 3 | 2) + _varint(len(value) + len(content)) + value)
    file.write(content)


def _verify(
    path: Path, file: BinaryIO, temporary: Path, digests: dict[str, str], scan: Callable[[Path], Table]
) -> None:
    """Read back what was written and compare every tensor. Raises OutputError."""
    flush(file)
    _drop_cache(file)
    try:
        written = TensorReader(temporary, "written", scan(temporary))
        differing = sorted(set(digests) ^ set(written.names))
        common = [name for name in digests if name in written]
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(common, pool.map(partial(tensor_digest, written), common), strict=True))
        differing += [name for name in common if found[name] != digests[name]]
    except OSError as error:
        raise output_error(path, error) from error
    if differing:
        raise OutputError(
            f"{path}: what was read back differs from what was written (tensor {differing[0]})",
            hint="The disk or the memory is faulty: write to another disk.",
        )


def _drop_cache(file: BinaryIO) -> None:
    """Ask for the bytes to be read from the disk, not from memory, where the system offers it."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
