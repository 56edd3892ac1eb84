"""Read files of torch.save, as pytorch_model.bin is: a pickle that says where each tensor's bytes are, and these bytes.

Nothing of the file is executed: of the pickle's names only those of tensors are known, and stand for records of this module. Any other
name is refused.
Source: torch/serialization.py: an archive of data.pkl and data/KEY since version 1.6; before, pickles one after another, then for each
storage its number of elements and its bytes.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from petrun.errors import WeightsError
from petrun.tensors.dtypes import BY_NAME
from petrun.tensors.table import Extent, Stored, Table, TensorInfo, unreadable

OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""First bytes of the older layout."""
_MOST_PICKLE_BYTES = 100_000_000
_AGAIN = "The file is damaged: fetch it again."
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_BROKEN = (
    pickle.UnpicklingError, EOFError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    RecursionError,
)  # fmt: skip
"""What pickle raises for bytes that are no pickle."""


@dataclass(frozen=True, kw_only=True)
class _Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    storage: _Storage
    first: int
    """Its first element in the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    """Stand for torch's `_rebuild_tensor_v2`."""
    numbers = (first, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor without a storage, or of negative sizes")
    return _Tensor(storage=storage, first=first, shape=tuple(shape), strides=tuple(strides))


def _parameter(tensor: _Tensor, *_: object) -> _Tensor:
    """Stand for torch's `_rebuild_parameter`."""
    return tensor


_KNOWN: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads tensors as records; refuses every other name."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        # Text of Python 2 is read as it is.
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module_name: str, global_name: str) -> object:
        found = _KNOWN.get((module_name, global_name))
        if found is None:
            raise WeightsError(
                f"{self.path}: is a pickle that asks for {module_name}.{global_name}, and petrun takes nothing but tensors from one",
                hint="Save the model's state_dict alone, or use its safetensors files.",
            )
        return found

    def persistent_load(self, pid: object) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in BY_NAME:
            raise ValueError("a storage of an unknown form")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("a storage that is a part of another")
        return _Storage(key=str(pid[2]), dtype=pid[1], elements=int(pid[4]))


def scan_torch(path: Path) -> Table:
    """Read where a file's tensors are. Raises WeightsError naming the file and, where one is at fault, the tensor."""
    try:
        if zipfile.is_zipfile(path):
            tensors, places = _of_archive(path)
        else:
            tensors, places = _of_pickles(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except (*_BROKEN, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: cannot be read as a file of torch.save: {error}", hint=_AGAIN) from error
    return Table({name: _stored(path, name, tensor, places) for name, tensor in tensors.items()})


Places = Mapping[str, tuple[int, int]]
"""Key of a storage -> offset and length of its bytes."""


def _of_archive(path: Path) -> tuple[dict[str, _Tensor], Places]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        listed = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
        if len(listed) != 1 or listed[0].file_size > _MOST_PICKLE_BYTES:
            raise WeightsError(
                f"{path}: is a zip archive, not one that torch.save writes",
                hint="Give the file with the tensors, or its folder.",
            )
        root = listed[0].filename.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder").strip() != b"little":
            raise WeightsError(
                f"{path}: was written on a big-endian machine", hint="Use the model's safetensors files."
            )
        with archive.open(listed[0]) as pickled:
            tensors = _tensors(path, _Unpickler(pickled, path).load)
        places = {}
        for info in archive.infolist():
            if info.filename.startswith(f"{root}data/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise WeightsError(
                        f"{path}: {info.filename} is compressed", hint="torch.save does not compress: save it again."
                    )
                # The name and the extra field before the bytes have their own lengths there.
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
                start = (
                    info.header_offset
                    + 30
                    + int.from_bytes(lengths[:2], "little")
                    + int.from_bytes(lengths[2:], "little")
                )
                places[info.filename.removeprefix(f"{root}data/")] = (start, info.file_size)
    return tensors, places


def _of_pickles(path: Path) -> tuple[dict[str, _Tensor], Places]:
    with path.open("rb") as file:
        for _ in range(3):
            # The magic number, the layout's version, the sizes of types on the machine that wrote it.
            header = _Unpickler(file, path).load()
        if not isinstance(header, dict) or not header.get("little_endian", True):
            raise WeightsError(
                f"{path}: was written on a big-endian machine", hint="Use the model's safetensors files."
            )
        tensors = _tensors(path, _Unpickler(file, path).load)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        places = {}
        for key in _Unpickler(file, path).load():
            elements = int.from_bytes(file.read(8), "little")
            if key not in storages:
                raise ValueError(f"storage {key} belongs to no tensor")
            length = elements * BY_NAME[storages[key].dtype].bits // 8
            places[key] = (file.tell(), length)
            file.seek(length, 1)
    return tensors, places


def _tensors(path: Path, load: Callable[[], object]) -> dict[str, _Tensor]:
    content = load()
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{path}: holds no dictionary of named tensors", hint="Save the model's state_dict.")
    for name, value in content.items():
        if not isinstance(value, _Tensor):
            raise WeightsError(
                f"{path}: {name} is {type(value).__name__}, not a tensor", hint="Save the model's state_dict alone."
            )
    return dict(content)


def _stored(path: Path, name: str, tensor: _Tensor, places: Places) -> Stored:
    if tensor.storage.key not in places:
        raise WeightsError(f"{path}: lacks the bytes of tensor {name}", hint=_AGAIN)
    offset, length = places[tensor.storage.key]
    info = TensorInfo(tensor.shape, tensor.storage.dtype)
    step, contiguous = 1, True
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        contiguous = contiguous and (size == 1 or stride == step)
        step *= size
    if not contiguous and info.elements:
        raise WeightsError(
            f"{path}: tensor {name} is a view whose elements are not in order",
            hint="Save it with .contiguous(), or use the model's safetensors files.",
        )
    first = tensor.first * BY_NAME[tensor.storage.dtype].bits // 8
    if first + info.nbytes > length or offset + first + info.nbytes > path.stat().st_size:
        raise WeightsError(f"{path}: ends inside tensor {name}", hint=_AGAIN)
    return Stored(info, (Extent(path=path, offset=offset + first, length=info.nbytes),))
