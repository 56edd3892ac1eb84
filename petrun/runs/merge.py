"""`petrun merge`: base and delta on disk -> a model on disk. No net is built, and one tensor is in memory at a time."""

from __future__ import annotations

import re
import time
from pathlib import Path

from petrun.checkpoint.convert import to_house
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.merge import FLOATS, Merged, merge_to_file, merge_to_folder
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError, DeltaError, did_you_mean
from petrun.models.base import Family, StoredName
from petrun.models.factory import is_factory, read_family
from petrun.models.weights import match, open_weights, stored_digest
from petrun.runs.assemble import base_path, hold_to_base, hold_to_family, method_of, open_delta, strategy_path
from petrun.tensors import TensorReader
from petrun.tensors.ranks import root_of
from petrun.train.report import say

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def run(
    *,
    base: str | None,
    delta: str | None,
    out: str | None,
    family: str | None,
    alpha: float | None,
    dtype: str | None,
    max_shard_size: str | None,
    base_strategy: str | None = None,
    delta_strategy: str | None = None,
) -> None:
    """Merge and say what was written."""
    if delta is None:
        raise ConfigError("--delta is missing: the delta to merge", hint="Example: --delta runs/lora-1")
    if out is None:
        raise ConfigError("--out is missing: where to write the merged model", hint="Example: --out ./merged")
    if dtype is not None and dtype not in FLOATS:
        raise ConfigError(f"--dtype {dtype} is unknown. {did_you_mean(dtype, FLOATS)}")
    shard = _bytes(max_shard_size or "5GB")
    began = time.perf_counter()
    given = open_delta(delta, alpha, delta_strategy)
    path = base_path(ModelConfig(base=base, family=family, base_strategy=base_strategy))
    if path is None:
        raise ConfigError(
            "--base is missing: a model from a factory without a checkpoint has nothing to merge into",
            hint="Give the checkpoint that the factory's net starts from as --base.",
        )
    reader = open_weights(path, strategy_path(base_strategy))
    merged = _merge(given, path, reader, family, Path(out).expanduser(), alpha, dtype, shard)
    say(
        f"merged {len(merged.changed)} of {merged.tensors} tensors into {merged.path} "
        f"({merged.nbytes / 1e6:,.1f} MB) in {time.perf_counter() - began:.1f} s; read back and verified, "
        f"digest {merged.digest[:16]}"
    )


def _merge(
    given: Delta,
    base: Path,
    reader: TensorReader,
    family: str | None,
    out: Path,
    alpha: float | None,
    dtype: str | None,
    shard: int,
) -> Merged:
    raw, kind, parsed = ({}, None, None) if is_factory(family) else read_family(base, family)
    hold_to_family(given, raw)
    names = kind.names(parsed) if kind else {}
    prefixes, ignored = (kind.prefixes, kind.ignored) if kind else (("",), ())
    fitted = to_house(given, names, prefixes, alpha, kind.sites(parsed) if kind else None)
    hold_to_base(fitted, _digest(reader, names, kind))
    method, config = method_of(fitted.algo, fitted.config, fitted.path)
    if method.fold is None:
        raise DeltaError(
            f"{given.path}: a {method.name} delta cannot be folded into the base's weights",
            hint="Use it beside its base: petrun eval and petrun predict take both.",
        )
    update = method.fold(config, fitted.tensors)
    if out.suffix in (".ckpt", ".safetensors"):
        return merge_to_file(reader, fitted, update, out, names=names, prefixes=prefixes, ignored=ignored, dtype=dtype)
    if kind is None:
        raise ConfigError(
            f"--out {out}: a model of your own has no Hugging Face layout",
            hint="Give a file: --out merged.ckpt or merged.safetensors.",
        )
    info = fitted.manifest.task if fitted.manifest is not None else None
    folder = root_of(base)
    return merge_to_folder(
        reader,
        fitted,
        update,
        out,
        names=names,
        config=raw,
        companions=folder if folder.is_dir() else folder.parent,
        prefixes=prefixes,
        ignored=ignored,
        labels=info.labels if info else (),
        dtype=dtype,
        max_shard_bytes=shard,
    )


def _digest(reader: TensorReader, names: dict[str, StoredName], kind: Family | None) -> str:
    own = names or {name: StoredName(name) for name in reader.names}
    prefixes, ignored = (kind.prefixes, kind.ignored) if kind else (("",), ())
    # Task heads are never part of a base's identity: every delta brings its own.
    heads = ("classifier.*",) if kind and "classify" in kind.tasks else ()
    return stored_digest(reader, match(reader, own, prefixes, ignored), heads)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found.group(2).upper() not in _UNITS or float(found.group(1)) <= 0:
        raise ConfigError(f"--max-shard-size {text} is not a size", hint="Examples: 500MB, 5GB.")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])
