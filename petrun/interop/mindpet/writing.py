"""A delta as a MindPet checkpoint: the same tensors, without a manifest. Only where MindPet's names and shapes say all there is to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.delta import find_method
from petrun.delta.method import of_the_run
from petrun.errors import DeltaError
from petrun.interop.mindpet.names import algorithms
from petrun.interop.mindpet.reading import told_settings
from petrun.tensors import array_entries, write_ckpt

_WRITTEN = ("lora", "adapter", "low_rank_adapter", "bitfit")
# Said by which tensors there are.
_BY_NAMES = ("target", "exclude", "bias_include", "bias_exclude")


def write_mindpet(delta: Delta, out: Path) -> None:
    """Raises DeltaError for an algorithm that MindPet lacks, and for settings that a reader of the file would not find; OutputError."""
    if delta.algo not in _WRITTEN:
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, which has no MindPet form here",
            hint=f"petrun writes these for MindPet: {', '.join(_WRITTEN)}; LoRA's kin with --as lora.",
        )
    if algorithms(delta.shapes) != [delta.algo]:
        raise DeltaError(
            f"{delta.path}: its tensors would not be read as {delta.algo}: MindPet's files say it by their names alone",
            hint="Keep the delta in petrun's own format.",
        )
    _check_told(delta)
    write_ckpt(out, array_entries({name: np.asarray(delta.tensors[name]) for name in delta.tensors}))


def _check_told(delta: Delta) -> None:
    kind = find_method(delta.algo).config
    told = told_settings(str(delta.path), delta.algo, delta.shapes, delta.config.get("alpha"))
    own, read = kind.model_validate(dict(delta.config)), kind.model_validate(told)
    lost = [
        f"{key} {getattr(own, key)!r} would be read as {getattr(read, key)!r}"
        for key in kind.model_fields
        if key not in _BY_NAMES and not of_the_run(kind, key) and getattr(own, key) != getattr(read, key)
    ]
    if lost:
        raise DeltaError(
            "\n  ".join([f"{delta.path}: MindPet's files cannot say:", *lost]),
            hint="LoRA's kin has a plain form: --as lora. One alpha must serve all layers.",
        )
