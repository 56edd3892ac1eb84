"""Load one net of a Stable-Diffusion pipeline in diffusers' layout: a folder with config.json and weights."""

from __future__ import annotations

from pathlib import Path

from petrun.errors import ModelError
from petrun.models.base import Family, LoadedModel
from petrun.models.builtin import BaseConfig, Head, assemble
from petrun.models.folder import CONFIG, read_json
from petrun.models.weights import open_weights


def load_part(folder: Path, family: Family, *, compute_dtype: str = "float32") -> LoadedModel:
    """Build the net of a folder and load its weights strictly; it is returned in eval mode.

    Raises ModelError (config.json) and WeightsError (the tensors).
    """
    path = folder / CONFIG
    raw = read_json(path)
    made = raw.get("_class_name")
    known = tuple(family.hf_classes.values())
    if made is not None and made not in known:
        raise ModelError(f"{path}: _class_name = {made!r} is not supported; supported: {', '.join(known)}")
    try:
        config = family.parse(raw)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error
    base = BaseConfig(path=path, raw=raw, family=family, config=config)
    return assemble(open_weights(folder), base, Head(), compute_dtype, 0)
