"""Write a delta as a MindPet checkpoint: the same tensors without a manifest, where MindPet's names and shapes state all settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.mindpet_names import algorithms
from petrun.delta import METHODS, find_method, names_where
from petrun.delta.forms import NotStored
from petrun.delta.method import of_the_run
from petrun.errors import DeltaError
from petrun.interop.mindpet.reading import CODECS
from petrun.tensors import array_entries, write_ckpt
from petrun.typing import JsonObject

# Settings that the names of the tensors state.
_BY_NAMES = ("target", "exclude", "bias_include", "bias_exclude")


def write_mindpet(delta: Delta, out: Path) -> JsonObject:
    """Write a checkpoint with MindPet's names. Returns the settings that a reader must give, because no file of MindPet holds them.

    Raises DeltaError for an algorithm that MindPet lacks, and for settings that a reader of the file would not find; OutputError.
    """
    method = METHODS.get(delta.algo)
    form = NotStored("its files hold one algorithm") if method is None else method.mindpet
    codec = None if isinstance(form, NotStored) else CODECS[form]
    if codec is None or codec.settings is None:
        why = form.reason if isinstance(form, NotStored) else "MindPet's form has one network for all layers"
        written = names_where(lambda each: isinstance(each.mindpet, str) and CODECS[each.mindpet].settings is not None)
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, which has no MindPet form here: {why}",
            hint=f"petrun writes these for MindPet: {written}; LoRA's variants with --as lora.",
        )
    if algorithms(delta.shapes) != [form]:
        raise DeltaError(
            f"{delta.path}: its tensors would not be read as {delta.algo}: MindPet's files say it by their names alone",
            hint="Keep the delta in petrun's own format.",
        )
    alpha = delta.config["alpha"] if codec.has_alpha else None
    _require_readable(delta, codec.settings(str(delta.path), delta.shapes, alpha))
    write_ckpt(out, array_entries({name: np.asarray(delta.tensors[name]) for name in delta.tensors}))
    return {} if alpha is None else {"alpha": alpha}


def _require_readable(delta: Delta, told: JsonObject) -> None:
    """Raises DeltaError where a reader of the file would derive other settings than the delta's."""
    kind = find_method(delta.algo).config
    own, read = kind.model_validate(dict(delta.config)), kind.model_validate(told)
    lost = [
        f"{key} {getattr(own, key)!r} would be read as {getattr(read, key)!r}"
        for key in kind.model_fields
        if key not in _BY_NAMES and not of_the_run(kind, key) and getattr(own, key) != getattr(read, key)
    ]
    if lost:
        raise DeltaError(
            "\n  ".join([f"{delta.path}: MindPet's files cannot say:", *lost]),
            hint="LoRA's variants have a plain form: --as lora. One alpha must serve all layers.",
        )
