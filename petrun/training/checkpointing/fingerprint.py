"""Compute and compare fingerprints of runs: every setting, and data, base and tokenizer by content, not by name."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import mindspore
import numpy as np

from petrun import __version__, kernels
from petrun.config.schema import RunConfig
from petrun.config.section import Section
from petrun.data.examples.array_store import pieces
from petrun.data.examples.example_set import COMPUTED, PICTURES, ExampleSet
from petrun.data.formats.folder import read_sources
from petrun.errors import ConfigError, did_you_mean
from petrun.models.base import LoadedModel
from petrun.training.setup.resolve import ResolvedRun
from petrun.typing import JsonObject

VERSIONS = "versions"
_FREE = (
    "out.dir",
    "data.cache",
    "data.on_bad_row",
    "train.save_every_steps",
    "train.keep_states",
    "train.max_seconds",
    "train.tracker",
    "train.on_nan",
    "train.spike_ratio",
    "eval.samples",
    "model.base_strategy",
    "delta_strategy",
    "compile_cache",
    "memory_check",
)
"""Settings that do not change what is computed, or only by the content that is compared as well."""
Fingerprint = Mapping[str, Any]
"""JSON values by key, from `fingerprint_of` or from a file."""


def fingerprint_of(resolved: ResolvedRun, loaded: LoadedModel) -> JsonObject:
    """Return setting -> value, or its digest where it names a file or folder. JSON values only."""
    sources, start, data = resolved.sources, resolved.start, resolved.config.data
    by_content = {
        "data.path": _files_digest(sources.train, data.path),
        "data.eval_path": [source.digest for path in data.eval_path for source in read_sources(path)],
        "data.template": _digest(sources.template.text) if sources.template else None,
        "model.base": loaded.base_digest,
        "model.config": _digest(json.dumps(loaded.hf_config, sort_keys=True)),
        "init_delta": None if start is None else start.read.digest or _digest(str(sorted(start.read.shapes.items()))),
        "parallel.dp": resolved.layout.dp,
    }
    tokenizer = sources.tokenizer.digest if sources.tokenizer else None
    # Rows may differ although nothing above does: a template may ask for today's date, or a newer petrun may read a file differently.
    rows = [_rows_digest(sources.train), _rows_digest(sources.evaluation) if sources.evaluation else None]
    versions = {
        "petrun": __version__,
        "mindspore": str(mindspore.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernels": kernels.status().reason,
    }
    content = {**settings_of(resolved.config), **by_content, "tokenizer": tokenizer, "rows": rows, VERSIONS: versions}
    fingerprint: JsonObject = json.loads(json.dumps(content))
    return fingerprint


def settings_of(config: RunConfig) -> JsonObject:
    """Return dotted key -> value of every setting that is part of the fingerprint. JSON values only."""
    found: JsonObject = {}
    for section, content in config.model_dump(mode="json").items():
        if isinstance(content, dict):
            found.update({f"{section}.{leaf}": value for leaf, value in content.items()})
        else:
            found[section] = content
    return {key: value for key, value in found.items() if key not in _FREE}


def _files_digest(rows: ExampleSet, paths: Sequence[str]) -> list[str]:
    """Return the digest of every file of rows; pictures are named by the digest of the rows, which hold that of each."""
    if rows.kind == PICTURES:
        return [_rows_digest(rows)]
    return [source.digest for path in paths for source in read_sources(path)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _rows_digest(rows: ExampleSet) -> str:
    """Return the digest of the rows in the form in which they are trained."""
    digest = hashlib.sha256()
    for part in (rows.flat, rows.per_row, rows.arrays, {"offsets": rows.offsets}):
        # What a net computed is no part of what was read.
        for name in sorted(set(part) - set(COMPUTED)):
            array = part[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for piece in pieces(array):
                digest.update(np.ascontiguousarray(piece).data if piece.size else b"")
    return digest.hexdigest()


def changes(was: Fingerprint, now: Fingerprint) -> dict[str, str]:
    """Return setting -> `was -> is`, for all that differ. Versions are not settings: see `other_versions`."""
    keys = [key for key in dict.fromkeys((*was, *now)) if key not in (VERSIONS, "rows") and not _is_new(key, was, now)]
    found = {key: f"{_show(was.get(key))} -> {_show(now.get(key))}" for key in keys if was.get(key) != now.get(key)}
    if not found and was.get("rows") != now.get("rows"):
        found["rows"] = "the same files and settings give other rows than before (does a template write the date?)"
    return found


def _is_new(key: str, was: Fingerprint, now: Fingerprint) -> bool:
    """Whether the run was begun by a petrun that did not have this setting yet, which now has its default."""
    section, _, leaf = key.rpartition(".")
    field = RunConfig.model_fields.get(section or leaf)
    kind = field.annotation if field is not None else None
    if (
        key in was
        or not (section and isinstance(kind, type) and issubclass(kind, Section))
        or leaf not in kind.model_fields
    ):
        return False
    default = kind.model_fields[leaf].get_default(call_default_factory=True)
    # A fingerprint has JSON values: a list where the setting is a tuple.
    return bool(now[key] == (list(default) if isinstance(default, tuple) else default))


def require_same_run(was: Fingerprint, now: Fingerprint, allowed: Sequence[str], place: str) -> dict[str, str]:
    """Require that the run in `place` has these settings and data. Returns the changes that `allowed` permits.

    Raises ConfigError with every other change, or for a key that is not a setting.
    """
    require_known(allowed, [key for key in now if key != VERSIONS])
    found = changes(was, now)
    refused = {key: text for key, text in found.items() if key not in allowed}
    if refused:
        lines = [f"{key}: {text}" for key, text in refused.items()]
        raise ConfigError(
            "\n  ".join([f"{place} was begun with other settings or data:", *lines]),
            hint=f"Resume with these as they were, allow the change (--allow {','.join(refused)}), or choose another --out.",
        )
    return found


def require_known(allowed: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError for a key of --allow that is none of the `known`."""
    unknown = [key for key in allowed if key not in known]
    if unknown:
        raise ConfigError(f"--allow {unknown[0]}: no such setting. {did_you_mean(unknown[0], known)}")


def other_versions(was: Fingerprint, now: Fingerprint) -> str:
    """Return `petrun 0.1.0 -> 0.2.0, ...`, or "" where all versions are the same."""
    before, after = was.get(VERSIONS, {}), now.get(VERSIONS, {})
    return ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])


def _show(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_show(part) for part in value)}]"
    if isinstance(value, str) and len(value) == 64:
        return f"content {value[:12]}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
