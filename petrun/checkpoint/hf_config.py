"""Write the files beside a merged model's weights: its config.json, and the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from petrun.data.templates.tokenizer_templates import template_files
from petrun.errors import WeightsError
from petrun.tensors import atomic_file
from petrun.typing import JsonObject

CONFIG = "config.json"
_COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "new_rows.json",
)
_OF_THE_MODEL = ("generation_config.json", "new_rows.json")


def merged_config(
    raw: JsonObject,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    labels: Sequence[str] = (),
    dtype: str | None = None,
    untied: bool = False,
) -> JsonObject:
    """Return the base's config.json with the architecture of the merged weights.

    architecture: class of transformers; None: the base's own stays.
    classes: classes of the delta's classification head; `labels` names them, else the base's own names
    where they are as many, else LABEL_0, ... dtype: the floating type of the weights, where it was changed.
    untied: the head has a matrix of its own, which the base's shares with the embedding.
    """
    # What is written is in full precision.
    config = {key: value for key, value in raw.items() if key != "quantization_config"}
    if untied:
        config["tie_word_embeddings"] = False
    # Loaded as any other class, transformers would initialise a part of it again.
    if architecture:
        config["architectures"] = [architecture]
    if classes is not None:
        own = raw.get("id2label")
        names = list(labels) or _own_labels(own, classes) or [f"LABEL_{i}" for i in range(classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        # One output is trained on numbers, several on classes: transformers takes the loss from this.
        if classes == 1:
            config["problem_type"] = "regression"
        elif raw.get("problem_type") == "regression":
            config["problem_type"] = "single_label_classification"
        # transformers derives it from id2label and does not store it; older readers of this file look for it.
        if "num_labels" in raw:
            config["num_labels"] = classes
    if dtype is not None:
        # transformers 4 wrote torch_dtype, 5 writes dtype; each reads both.
        for key in ("dtype", "torch_dtype"):
            if key in raw:
                config[key] = dtype
        if "dtype" not in raw and "torch_dtype" not in raw:
            config["torch_dtype"] = dtype
    return config


def _own_labels(own: object, classes: int) -> list[str]:
    if not isinstance(own, dict) or set(map(str, own)) != {str(i) for i in range(classes)}:
        return []
    named = {str(k): str(v) for k, v in own.items()}
    return [named[str(i)] for i in range(classes)]


def write_companions(folder: Path, config: JsonObject, source: Path | None) -> None:
    """Write config.json into `folder`, and copy the tokenizer's and generation's files there from `source`."""
    with atomic_file(folder / CONFIG) as (out, _):
        out.write((json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    if source is None:
        return
    for name in (*map(Path, _COMPANIONS), *template_files(source), *_code_files(source, config)):
        path = source / name
        if path.is_file():
            content = _read(path)
            (folder / name).parent.mkdir(exist_ok=True)
            with atomic_file(folder / name) as (out, _):
                out.write(content)


def copy_tokenizer(folder: Path, source: Path) -> None:
    """Copy the tokenizer's files of a base, its templates among them, beside a delta whose ids have rows of their own."""
    for name in (*(Path(name) for name in _COMPANIONS if name not in _OF_THE_MODEL), *template_files(source)):
        path = source / name
        if path.is_file():
            with atomic_file(folder / name) as (out, _):
                out.write(_read(path))


def _code_files(source: Path, config: JsonObject) -> list[Path]:
    """Return the Python files of a folder whose config.json names classes in them (auto_map), as ChatGLM's does: transformers loads no
    such model without them. They are copied, never run.
    """
    return sorted(Path(path.name) for path in source.glob("*.py")) if config.get("auto_map") else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
