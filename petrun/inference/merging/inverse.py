"""Compute the base from a merged model and the delta, as far as rounding allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from petrun.algebra.plain_lora import is_factor, is_low_rank
from petrun.algebra.sums import Term, added
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.merge import FolderSettings, MergeBase, Merged, merge_to_file, merge_to_folder
from petrun.checkpoint.tied import owner
from petrun.delta.method import ALL, Update
from petrun.errors import ConfigError, DeltaError
from petrun.inference.stored_base import StoredBase
from petrun.models.base import shared_matrices
from petrun.tensors import Array

_HALF_A_STEP = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}


class WatchedUpdate:
    """An update that remembers the largest value that it was given, which bounds the rounding of the merge."""

    def __init__(self, update: Update) -> None:
        self.update = update
        self.largest = 0.0

    def __call__(self, name: str, value: Array, rows: slice = ALL) -> Array:
        result = self.update(name, value, rows)
        if result is not value:
            self.largest = max(self.largest, float(np.abs(value).max(initial=0.0)))
        return result


def write_unmerged(given: Delta, model: StoredBase, out: Path, dtype: str | None) -> tuple[Merged, WatchedUpdate]:
    """Write the base. Raises DeltaError where it cannot be computed, ConfigError, and what a merge raises."""
    fresh = _added_parameters(given)
    taken = added([Term(given, -1.0)])
    again = _weights_to_tie(given, model)
    tensors = {name: taken.tensors[name] for name in taken.tensors if is_factor(name) and owner(name) not in again}
    inverse = Delta(given.path, tensors, given.manifest, "petrun", taken.algo, taken.config)
    method, config = method_of(taken.algo, taken.config, given.path)
    assert method.merge is not None
    update = WatchedUpdate(method.merge(config, tensors))
    kept = {name: stored for name, stored in model.names.items() if name not in fresh | again}
    dropped = [model.names[name].name if name in model.names else name for name in fresh | again]
    reader = model.reader()
    base = MergeBase(
        reader=reader,
        names=kept or {name: stored for name, stored in model.names_in(reader).items() if name not in fresh},
        prefixes=model.prefixes,
        ignored=(*model.ignored, *dropped),
    )
    if out.suffix in (".ckpt", ".safetensors"):
        return merge_to_file(base, inverse, update, out, dtype=dtype), update
    if model.kind is None:
        raise ConfigError(
            f"--out {out}: a model of your own has no Hugging Face layout", hint="Give a file: --out base.ckpt"
        )
    own = given.manifest.hf_config if given.manifest is not None else {}
    folder = model.path if model.path.is_dir() else model.path.parent
    settings = FolderSettings(config=own or model.raw, architecture=model.architecture, companions=folder)
    return merge_to_folder(base, inverse, update, out, settings, dtype=dtype), update


def _weights_to_tie(given: Delta, model: StoredBase) -> set[str]:
    """Return the weights that are separate in the merged model, and that the delta's base shares with another layer."""
    raw = given.manifest.hf_config if given.manifest is not None else {}
    if model.kind is None or not raw:
        return set()
    return set(shared_matrices(model.kind.names(model.kind.parse(raw)))) & set(model.names)


def _added_parameters(given: Delta) -> set[str]:
    """Return the parameters that the delta added and the base never held. Raises DeltaError for those whose base values are lost."""
    if not is_low_rank(given):
        raise DeltaError(
            f"{given.path}: is a {given.algo} delta, which put its own values in the base's place: those are not in the merged model",
            hint="The base itself is the only way back.",
        )
    fresh = set(given.manifest.base.fresh) if given.manifest is not None else set()
    full = {name for name in given.tensors if not is_factor(name)}
    lost = sorted(full - fresh)
    if lost:
        raise DeltaError(
            f"{given.path}: put its own {lost[0]} in the base's place ({len(lost)} tensors in all): the base's values are gone",
            hint="The base itself is the only way back.",
        )
    return full


def compare_with_base(given: Delta, model: StoredBase, written: Merged, watched: WatchedUpdate) -> str:
    """Tell whether the base came back bit-exact, and else by how much a value may be off."""
    wanted = given.manifest.base.digest if given.manifest is not None else ""
    found = replace(model, path=written.path, strategy=None).digest()
    if wanted and found == wanted:
        return f"this is the base, bit for bit: its digest is the one in the delta's manifest, {wanted[:16]}"
    reader = model.reader()
    step = max(_HALF_A_STEP.get(reader.info(name).dtype, 0.0) for name in reader.names)
    why = "the delta does not name its base" if not wanted else f"digest {found[:16]}, the delta names {wanted[:16]}"
    return (
        f"not proven to be the base bit for bit ({why}): the merge rounded values of up to {watched.largest:.4g}, "
        f"so that a value may be off by about {watched.largest * step:.2e}. A merge with --dtype float32 of a narrower base "
        "comes back exactly with unmerge --dtype of the base"
    )
