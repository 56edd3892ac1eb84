"""The paths of a task: what a path must be, and which of them other users could change."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from petrun.mindpet.utils.exceptions import MindPetError

_KINDS = {"boot_file_path": "file", "model_config_path": "file", "pretrained_model_path": ""}
"""What a path must be: "file", "" (either), and where nothing stands here a folder."""
_SUFFIXES = {"boot_file_path": (".py",), "model_config_path": (".yaml", ".yml")}
_FREE_BYTES = 2**30


def resolved_paths(given: Mapping[str, str]) -> dict[str, Path]:
    """Return the paths as absolute paths without links, as the boot script gets them. Raises MindPetError with every problem."""
    found = {name: Path(text).expanduser().resolve() for name, text in given.items()}
    problems = [problem for name, path in found.items() if (problem := _problem_of(name, path))]
    problems += _loops(found)
    if problems:
        raise MindPetError("\n".join(problems))
    return found


def _problem_of(name: str, path: Path) -> str:
    kind = _KINDS.get(name, "folder")
    if not path.exists():
        return f"--{name}: {path} does not exist"
    if kind == "folder" and not path.is_dir():
        return f"--{name}: {path} must be a folder"
    if kind == "file" and not path.is_file():
        return f"--{name}: {path} must be a file"
    suffixes = _SUFFIXES.get(name, ())
    return f"--{name}: {path} must end in {' or '.join(suffixes)}" if suffixes and path.suffix not in suffixes else ""


def _loops(found: Mapping[str, Path]) -> list[str]:
    out = found["output_path"]
    inputs = (name for name in ("data_path", "pretrained_model_path", "ckpt_path") if name in found)
    return [
        f"--output_path: {out} must not be --{name} or a folder inside it"
        for name in inputs
        if out == found[name] or found[name] in out.parents
    ]


def risks(found: Mapping[str, Path]) -> dict[str, str]:
    """Return what may go wrong later: path's name -> a sentence. Other users who can change a path, and a disk that is nearly full."""
    unsafe = {}
    for name, path in found.items():
        state = path.stat()
        if state.st_uid not in (os.geteuid(), 0):
            unsafe[name] = f"--{name}: {path} belongs to another user (uid {state.st_uid})"
        elif state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            unsafe[name] = f"--{name}: other users can change {path} (chmod go-w {path})"
    free = shutil.disk_usage(found["output_path"]).free
    if free < _FREE_BYTES and "output_path" not in unsafe:
        unsafe["output_path"] = f"--output_path: only {free / 2**20:.0f} MiB are free under {found['output_path']}"
    return unsafe


def require_mindpet(boot_file: Path) -> None:
    """Raise MindPetError where the script imports `mindpet` and that is not installed: the word to change, with file and line."""
    if importlib.util.find_spec("mindpet") is not None:
        return
    try:
        tree = ast.parse(boot_file.read_bytes(), str(boot_file))
    except (SyntaxError, ValueError):
        # Python itself says what is wrong, when it runs the script.
        return
    for node in tree.body:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name.partition(".")[0] == "mindpet" for name in names):
            raise MindPetError(
                f"{boot_file}, line {node.lineno}: imports mindpet, which is not installed; write petrun.mindpet in its place"
            )
