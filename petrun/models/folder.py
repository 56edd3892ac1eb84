"""Read the files of a base: config.json with its labels and special tokens, and the weights beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from petrun.errors import ModelError
from petrun.tensors.sharded.ranks import is_sharded, root_of
from petrun.tensors.steps import newest
from petrun.typing import JsonObject

CONFIG = "config.json"
BASE_HINT = "--base takes a Hugging Face folder, a .safetensors or a .ckpt file."


def read_json(path: Path) -> JsonObject:
    """Read a JSON object. Raises ModelError naming the file and, for broken JSON, line and column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path}: not UTF-8 text (byte {error.start})", hint="Save it as UTF-8, or fetch it again."
        ) from error
    if not text.strip():
        raise ModelError(f"{path}: is empty", hint="Fetch the file again.")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}",
            hint="Fetch the file again.",
        ) from error
    except RecursionError as error:
        raise ModelError(f"{path}: is nested too deeply", hint="Fetch the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object, holds {type(value).__name__}", hint="Fetch the file again.")
    return value


def config_path(base: Path | None, config: Path | None) -> Path:
    """Return the given config.json, or the one in the base's folder, or beside the base's file. Raises ModelError where there is none.

    For a base in ranks' files it is beside the ranks' folders.
    """
    if config is not None:
        path = config / CONFIG if config.is_dir() else config
        if not path.is_file():
            raise ModelError(f"{path}: no such file", hint="--set model.config=PATH names the base's config.json.")
        return path
    if base is None:
        raise ModelError("no base is given", hint=BASE_HINT)
    base = root_of(base)
    if not base.exists():
        raise ModelError(f"{base}: no such file or folder", hint=BASE_HINT)
    path = (base if base.is_dir() else base.parent) / CONFIG
    if not path.is_file():
        for mark, what in (("adapter_config.json", "a peft adapter"), ("run.yaml", "the delta of a run")):
            if (path.parent / mark).is_file():
                raise ModelError(
                    f"{base}: is {what}, not a base",
                    hint="Give it as --delta, and the base it was trained on as --base.",
                )
        raise ModelError(
            f"{path}: no such file, and without it the model's shape is not known",
            hint="Put the base's config.json there, or name it with --set model.config=PATH.",
        )
    return path


def weights_path(base: Path) -> Path:
    """Return the path of the weights: a folder with safetensors itself, or the newest .ckpt file of a folder with none of those.

    Raises ModelError where their names do not tell the newest, and for the files of a job's ranks.
    """
    if is_sharded(base):
        raise ModelError(
            f"{base}: holds the files of a job's ranks, each with a shard of the tensors",
            hint="Give the job's strategy file, --base-strategy FILE, or join them first: petrun reshard --from-strategy FILE --single. "
            "Where nothing was sharded, any one rank's file is the whole.",
        )
    if not base.exists():
        raise ModelError(f"{base}: no such file or folder", hint=BASE_HINT)
    if base.is_dir() and not any(base.glob("*.safetensors*")):
        checkpoints = sorted(base.glob("*.ckpt"))
        if checkpoints:
            return newest(checkpoints, path=base, error=ModelError, hint="Name one of them with --base.")
    return base


def label_names(raw: Mapping[str, object], count: int) -> tuple[str, ...]:
    """Return id2label in index order, where it names exactly `count` classes; else ()."""
    table = raw.get("id2label")
    if not isinstance(table, dict):
        return ()
    named = {str(k): str(v) for k, v in table.items()}
    wanted = [str(i) for i in range(count)]
    return tuple(named[i] for i in wanted) if set(named) == set(wanted) else ()


def eos_ids(raw: Mapping[str, object], folder: Path | None) -> tuple[int, ...]:
    """Return generation_config.json's eos_token_id, as generation in transformers uses it, else config.json's."""
    value = None
    if folder is not None and (folder / "generation_config.json").is_file():
        value = read_json(folder / "generation_config.json").get("eos_token_id")
    if value is None:
        value = raw.get("eos_token_id")
    many = value if isinstance(value, list) else [value]
    return tuple(i for i in many if isinstance(i, int) and not isinstance(i, bool) and i >= 0)
