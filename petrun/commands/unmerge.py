"""`petrun unmerge`: a merged model and the delta -> the base, as far as rounding leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from petrun import console
from petrun.algebra.plain_lora import is_factor, is_low_rank
from petrun.algebra.sums import Term, added
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.merge import FLOATS, Merged, merge_to_file, merge_to_folder
from petrun.checkpoint.tied import owner
from petrun.commands.delta.files import Opener
from petrun.delta.method import ALL, Update
from petrun.errors import ConfigError, DeltaError, did_you_mean
from petrun.inference.assembly import require_matching_family
from petrun.inference.merging.merged_prompts import holds_prompts
from petrun.inference.stored_base import StoredBase, stored_base
from petrun.models.base import shared_matrices
from petrun.tensors import Array

_HALF_A_STEP = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}


def run(
    *,
    merged: str | None,
    delta: str | None,
    out: str | None,
    family: str | None,
    alpha: float | None,
    dtype: str | None,
) -> None:
    """Write the base, and say whether it is the base to the bit. Raises DeltaError where the base cannot be computed."""
    for flag, value in (("--merged", merged), ("--delta", delta), ("--out", out)):
        if value is None:
            raise ConfigError(f"{flag} is missing", hint="petrun unmerge --merged M --delta D --out BASE")
    if dtype is not None and dtype not in FLOATS:
        raise ConfigError(f"--dtype {dtype} is unknown. {did_you_mean(dtype, FLOATS)}")
    began = time.perf_counter()
    model = stored_base(merged, family)
    given = _opened(str(delta), model, family, alpha)
    require_matching_family(given, model.raw)
    written, watched = _write(given, model, Path(str(out)).expanduser(), dtype)
    console.print(
        f"took the delta out of {len(written.changed)} of {written.tensors} tensors into {written.path} "
        f"({written.nbytes / 1e6:,.1f} MB) in {time.perf_counter() - began:.1f} s"
    )
    console.print(_verdict(given, model, written, watched))
    if written.path.is_dir() and holds_prompts(given):
        console.print(
            "note: chat template and generation_config.json are those of the merged folder, where merging may have written the delta's: "
            "compare them with the base's"
        )


def _opened(path: str, model: StoredBase, family: str | None, alpha: float | None) -> Delta:
    """The delta in the model's names. One of petrun's own is not held against the merged model, which is not its base."""
    (given,) = Opener(None, family, alpha, model=model)(path)
    return given


class _Watched:
    """An update that remembers the largest value it was given: what the merge rounded there."""

    def __init__(self, update: Update) -> None:
        self.update = update
        self.largest = 0.0

    def __call__(self, name: str, value: Array, rows: slice = ALL) -> Array:
        result = self.update(name, value, rows)
        if result is not value:
            self.largest = max(self.largest, float(np.abs(value).max(initial=0.0)))
        return result


def _write(given: Delta, model: StoredBase, out: Path, dtype: str | None) -> tuple[Merged, _Watched]:
    fresh = _brought(given)
    taken = added([Term(given, -1.0)])
    again = _tied_again(given, model)
    tensors = {name: taken.tensors[name] for name in taken.tensors if is_factor(name) and owner(name) not in again}
    inverse = Delta(given.path, tensors, given.manifest, "petrun", taken.algo, taken.config)
    method, config = method_of(taken.algo, taken.config, given.path)
    assert method.merge is not None
    update = _Watched(method.merge(config, tensors))
    kept = {name: stored for name, stored in model.names.items() if name not in fresh | again}
    dropped = [model.names[name].name if name in model.names else name for name in fresh | again]
    common: dict[str, Any] = {
        "names": kept or {name: stored for name, stored in model.names_in(model.reader()).items() if name not in fresh},
        "prefixes": model.prefixes,
        "ignored": (*model.ignored, *dropped),
        "dtype": dtype,
    }
    write: Callable[..., Merged] = merge_to_folder
    if out.suffix in (".ckpt", ".safetensors"):
        write = merge_to_file
    elif model.kind is None:
        raise ConfigError(
            f"--out {out}: a model of your own has no Hugging Face layout", hint="Give a file: --out base.ckpt"
        )
    else:
        own = given.manifest.hf_config if given.manifest is not None else {}
        folder = model.path if model.path.is_dir() else model.path.parent
        common |= {"config": own or model.raw, "companions": folder}
    return write(model.reader(), inverse, update, out, **common), update


def _tied_again(given: Delta, model: StoredBase) -> set[str]:
    """Weights that the merged model has of its own, and that the delta's base shares with another layer."""
    raw = given.manifest.hf_config if given.manifest is not None else {}
    if model.kind is None or not raw:
        return set()
    return set(shared_matrices(model.kind.names(model.kind.parse(raw)))) & set(model.names)


def _brought(given: Delta) -> set[str]:
    """Parameters that the delta brought and the base never held. Raises DeltaError for those whose base values are gone."""
    if not is_low_rank(given):
        raise DeltaError(
            f"{given.path}: is a {given.algo} delta, which put its own values in the base's place: those are not in the merged model",
            hint="The base itself is the only way back.",
        )
    fresh = set(given.manifest.base.fresh) if given.manifest is not None else set()
    whole = {name for name in given.tensors if not is_factor(name)}
    lost = sorted(whole - fresh)
    if lost:
        raise DeltaError(
            f"{given.path}: put its own {lost[0]} in the base's place ({len(lost)} tensors in all): the base's values are gone",
            hint="The base itself is the only way back.",
        )
    return whole


def _verdict(given: Delta, model: StoredBase, written: Merged, watched: _Watched) -> str:
    wanted = given.manifest.base.digest if given.manifest is not None else ""
    found = replace(model, path=written.path, strategy=None).digest()
    if wanted and found == wanted:
        return f"this is the base to the bit: its digest is the one in the delta's manifest, {wanted[:16]}"
    reader = model.reader()
    step = max(_HALF_A_STEP.get(reader.info(name).dtype, 0.0) for name in reader.names)
    why = "the delta does not name its base" if not wanted else f"digest {found[:16]}, the delta names {wanted[:16]}"
    return (
        f"not proven to be the base to the bit ({why}): the merge rounded values of up to {watched.largest:.4g}, "
        f"so that a value may be off by about {watched.largest * step:.2e}. A merge with --dtype float32 of a narrower base "
        "comes back exactly with unmerge --dtype of the base"
    )
