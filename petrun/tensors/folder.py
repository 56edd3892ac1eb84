"""Read Hugging Face model folders: model.safetensors, or shards listed in model.safetensors.index.json; where there are neither, the same
of diffusion_pytorch_model.safetensors, which diffusers writes, or of pytorch_model.bin.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from petrun.errors import WeightsError
from petrun.tensors.kinds import file_kind
from petrun.tensors.safetensors_file import scan_safetensors
from petrun.tensors.table import Stored, Table
from petrun.tensors.torch_file import scan_torch

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DIFFUSERS_WHOLE = "diffusion_pytorch_model.safetensors"
DIFFUSERS_INDEX = "diffusion_pytorch_model.safetensors.index.json"
TORCH_WHOLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"((?:diffusion_pytorch_)?model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin)")
_FETCH = "The folder is incomplete or mixes two models: fetch it again."


def scan_folder(folder: Path) -> Table:
    """Return all tensors of a folder. A single file takes precedence over an index beside it, as in transformers.

    Raises WeightsError naming the folder or file, and the tensor where one is at fault; OSError unchanged.
    """
    for whole, index in ((WHOLE, INDEX), (DIFFUSERS_WHOLE, DIFFUSERS_INDEX)):
        if (folder / whole).exists():
            return _scan_file(folder / whole)
        if (folder / index).exists():
            return _join_shards(folder, index)
    if (folder / TORCH_WHOLE).exists():
        return _scan_pickle(folder / TORCH_WHOLE)
    if (folder / TORCH_INDEX).exists():
        return _join_shards(folder, TORCH_INDEX)
    raise _nothing_here(folder)


def _scan_file(path: Path) -> Table:
    if file_kind(path) != "safetensors":
        raise WeightsError(
            f"{path}: is no safetensors file, whatever its name says",
            hint="Give the file itself, renamed to .ckpt or .bin.",
        )
    return scan_safetensors(path)


def _scan_pickle(path: Path) -> Table:
    """Read a file of torch.save. A refusal says how transformers converts it."""
    try:
        if file_kind(path) != "torch":
            raise WeightsError(f"{path}: is not a file of torch.save, whatever its name says")
        return scan_torch(path)
    except WeightsError as error:
        raise WeightsError(error.message, hint=_written_by(path.parent)) from error


def _nothing_here(folder: Path) -> WeightsError:
    files = sorted(p.name for p in folder.iterdir())
    shards = [f for f in files if _SHARD.fullmatch(f)]
    if "adapter_config.json" in files:
        return WeightsError(
            f"{folder}: is a peft adapter, not a base model",
            hint="Give it as the delta (--delta), and its base as --base.",
        )
    if shards:
        of_diffusers = DIFFUSERS_INDEX if shards[0].startswith("diffusion_") else INDEX
        return WeightsError(
            f"{folder}: holds shards ({shards[0]}, ...) but no {TORCH_INDEX if shards[0].endswith('.bin') else of_diffusers}",
            hint=_FETCH,
        )
    others = [f for f in files if f.endswith((".safetensors", ".ckpt"))]
    hint = f"To use {others[0]}, give that file itself." if others else f"Expected {WHOLE} or {INDEX}."
    return WeightsError(f"{folder}: holds neither {WHOLE} nor {INDEX}", hint=hint)


def _written_by(folder: Path) -> str:
    """Return the command that writes the pickle's tensors as safetensors beside it, head and all: with the class that config.json names."""
    try:
        content: object = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    listed = content.get("architectures") if isinstance(content, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    named = first if isinstance(first, str) and first.isidentifier() else None
    python = (
        f"import sys; from transformers import {named or 'CLASS'} as M; "
        "M.from_pretrained(sys.argv[1], torch_dtype='auto').save_pretrained(sys.argv[1] + '/converted')"
    )
    quoted = shlex.quote(str(folder))
    return (
        f'Convert it once where transformers is installed: HF_HUB_OFFLINE=1 python -c "{python}" {quoted} '
        f"&& mv {quoted}/converted/*.safetensors* {quoted}"
        + ("" if named else ", with the class of the model, head and all, for CLASS: config.json names none.")
    )


def _read_index(path: Path) -> dict[str, str]:
    """Read the weight_map: tensor -> file name in the same folder."""
    try:
        content: object = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not valid JSON ({error})", hint=_FETCH) from error
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(f"{path}: has no weight_map", hint=_FETCH)
    for name, file in listed.items():
        # A plain file name only: an index must not make petrun read outside its folder.
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise WeightsError(
                f"{path}: tensor {name} is said to lie in {file!r}, which is not a file name", hint=_FETCH
            )
    return listed


def _join_shards(folder: Path, index_name: str) -> Table:
    index = folder / index_name
    listed = _read_index(index)
    files = sorted(set(listed.values()))
    missing = [f for f in files if not (folder / f).is_file()]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise WeightsError(
            f"{folder}: lacks {len(missing)} of {len(files)} shards: {some}",
            hint=f"{index_name} names them: fetch them again.",
        )
    suffix = ".bin" if index_name == TORCH_INDEX else ".safetensors"
    shards = (p.name for p in folder.glob(f"*{suffix}") if _SHARD.fullmatch(p.name))
    unlisted = sorted(name for name in shards if name not in files)
    if unlisted:
        raise WeightsError(f"{folder}: shard {unlisted[0]} is not named in {index_name}", hint=_FETCH)
    scan = _scan_pickle if index_name == TORCH_INDEX else _scan_file
    tables = {file: scan(folder / file) for file in files}
    tensors: dict[str, Stored] = {}
    for name, file in listed.items():
        if name not in tables[file].tensors:
            raise WeightsError(f"{folder / file}: lacks tensor {name}, which {index_name} says it holds", hint=_FETCH)
        tensors[name] = tables[file].tensors[name]
    for file, table in tables.items():
        strays = [name for name in table.tensors if listed.get(name) != file]
        if strays:
            raise WeightsError(
                f"{folder / file}: holds tensor {strays[0]}, which {index.name} does not place there",
                hint=_FETCH,
            )
    metadata: dict[str, str] = {}
    for table in tables.values():
        metadata.update(table.metadata)
    return Table(tensors, metadata)
