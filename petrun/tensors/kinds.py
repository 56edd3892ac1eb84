"""Tell the kind of a file by its first bytes: safetensors, a MindSpore checkpoint, a file of torch.save, or something else that is often
mistaken for one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from petrun.errors import WeightsError
from petrun.tensors.torch_file import OLD_MAGIC

Kind = Literal["safetensors", "ckpt", "torch"]

_CONVERT = (
    "Convert it once where PyTorch is installed: `from safetensors.torch import save_file; "
    "save_file(torch.load(FILE, weights_only=True), 'model.safetensors')`."
)
_ARCHIVE = b"PK\x03\x04"
_FETCH = "Fetch the file itself again: the download stored something else in its place."
# (first bytes, what the file is, what to do)
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for",
        "Run `git lfs pull` in the model's folder, or download the file itself.",
    ),
    (b"\x80\x02", "a Python pickle, not one of torch.save", _CONVERT),
    (b"\x80\x03", "a Python pickle, not one of torch.save", _CONVERT),
    (b"\x80\x04", "a Python pickle, not one of torch.save", _CONVERT),
    (b"\x80\x05", "a Python pickle, not one of torch.save", _CONVERT),
    (b"GGUF", "a GGUF file", "Use the model's safetensors files."),
    (b"\x89HDF", "an HDF5 file", "Use the model's safetensors files."),
    (b"\x93NUMPY", "a numpy array file", "Save the named arrays with safetensors.numpy.save_file."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (
        b"\xd8^:\x7f",
        "a MindSpore checkpoint encrypted with AES-GCM",
        "Load it with dec_key in MindSpore and save it without enc_key.",
    ),
    (
        b"\xd9^:\x7f",
        "a MindSpore checkpoint encrypted with AES-CBC",
        "Load it with dec_key in MindSpore and save it without enc_key.",
    ),
    (
        b"\xda^:\x7f",
        "a MindSpore checkpoint encrypted with SM4-CBC",
        "Load it with dec_key in MindSpore and save it without enc_key.",
    ),
)


def file_kind(path: Path) -> Kind:
    """Tell a safetensors file, a MindSpore checkpoint and a file of torch.save apart. Raises WeightsError for any other file, and OSError
    unchanged."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError(f"{path}: is empty", hint="Fetch or write the file again.")
    # A safetensors file starts with its header's length, 8 bytes little-endian; the 9th byte is the opening brace.
    # It goes first: a length may begin like a pickle or an archive (1152 is 80 04).
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        return "safetensors"
    if head.startswith((_ARCHIVE, OLD_MAGIC)):
        return "torch"
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            raise WeightsError(f"{path}: is {what}", hint=hint)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{path}: is a web page, not a model file", hint=_FETCH)
    # A checkpoint starts with field 1 (a Value), its length, and inside it field 1 (the tensor's name).
    if head[0] == 0x0A and b"\x0a" in head[2:12]:
        return "ckpt"
    if text.startswith((b"{", b"[")):
        raise WeightsError(
            f"{path}: is JSON text, not a model file", hint="Give the file with the tensors, or its folder."
        )
    if path.suffix == ".safetensors" or len(head) <= 8:
        raise WeightsError(f"{path}: is not a safetensors file, or is cut off in its header", hint=_FETCH)
    shown = json.dumps(head[:12].decode("latin-1"))
    raise WeightsError(
        f"{path}: is neither safetensors nor a MindSpore checkpoint (it starts with {shown})",
        hint="petrun reads .safetensors files, Hugging Face folders, MindSpore .ckpt files and what torch.save writes.",
    )
