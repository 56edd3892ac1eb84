"""Define the manifest of a delta: the JSON text that its file holds under `petrun_manifest`."""

from __future__ import annotations

import json
import math

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from petrun.errors import DeltaError, did_you_mean
from petrun.typing import JsonObject

FORMAT = 1
"""Raised when a reader of the older format would misunderstand a file."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), strict=True)


class BaseIdentity(_Section):
    """The base that the delta was trained on, by content."""

    digest: str
    """SHA-256 over the base's tensors (LoadedModel.base_digest), independent of path, time and sharding."""
    quantisation: str = ""
    """Form of the base's frozen matrices, int8 or nf4; "" for full precision."""
    original: str = ""
    """The digest of the full-precision base that the quantised one was made from; "" where it is not known."""
    name: str = ""
    """Name of the folder or file at training time. It is shown to people, and nothing depends on it."""
    fresh: tuple[str, ...] = ()
    """Parameters the base did not hold; the delta holds those of them that belong to the task."""


class TaskInfo(_Section):
    """How the data was read: settings that later commands take from here."""

    name: str
    """classify, lm, instruct, preference or tokens."""
    rows: str | None = None
    """Kind of the training rows (petrun/data/rows/columns.py), such as completion or chat; None: a delta of an earlier version."""
    labels: tuple[str, ...] = ()
    """Label names in index order."""
    num_labels: int | None = None
    seq_len: int | None = None
    loss_on: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    separator: str | None = None


class Manifest(_Section):
    """A delta's description. `owned` and `digest` are filled in by save_delta."""

    format: int = FORMAT
    algo: str
    config: JsonObject = Field(default_factory=dict)
    """The algorithm's settings, as its own config model dumps them."""
    family: str = ""
    model_type: str = ""
    hf_config: JsonObject = Field(default_factory=dict)
    """The base's config.json; {} for a module:function factory."""
    base: BaseIdentity
    task: TaskInfo | None = None
    template: str | None = None
    """The prompt template's text."""
    end_of_turn: str | None = None
    """The text with which the template closes an answer, '' for none; None: a delta of an earlier version."""
    tokenizer_digest: str | None = None
    seed: int = 0
    step: int = 0
    epoch: float = 0.0
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """Scores; values that are not finite are null, as JSON has no other form for them."""
    versions: dict[str, str] = Field(default_factory=dict)
    made: tuple[str, ...] = ()
    """How it was made from other deltas: the operation, then a line for each source with weight and digest. () for a trained delta."""
    owned: tuple[str, ...] = ()
    """Names of all tensors in the file, sorted."""
    digest: str = ""
    """SHA-256 over the tensors: names, types, shapes and bytes."""

    @field_validator("metrics")
    @classmethod
    def _finite(cls, value: dict[str, float | None]) -> dict[str, float | None]:
        return {k: v if v is not None and math.isfinite(v) else None for k, v in value.items()}

    def to_json(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        # The name of a base's folder may not be valid text, which must not lose a delta at the end of its training.
        return text.encode("utf-8", "replace").decode("utf-8")


def parse_manifest(path: str, text: str) -> Manifest:
    """Parse the manifest. Raises DeltaError naming every key that is unknown, missing or of a wrong type."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeltaError(f"{path}: its manifest is not valid JSON ({error})", hint="The file is damaged.") from error
    if not isinstance(raw, dict):
        raise DeltaError(f"{path}: its manifest is not a JSON object", hint="The file is damaged.")
    version = raw.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DeltaError(f"{path}: its manifest has no valid format version ({version!r})", hint="The file is damaged.")
    if version > FORMAT:
        raise DeltaError(
            f"{path}: was written by a newer petrun (format {version}, this one reads up to {FORMAT})",
            hint="Upgrade petrun: pip install -U petrun.",
        )
    try:
        # From JSON text, so that lists become tuples under strict typing.
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        lines = [_problem(item) for item in error.errors(include_url=False)]
        raise DeltaError(
            "\n  ".join([f"{path}: its manifest does not read:", *lines]),
            hint="The file was edited by hand or written by another version of petrun.",
        ) from error


def _problem(item: ErrorDetails) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = Manifest.model_fields if len(item["loc"]) == 1 else ()
        return f"{key}: unknown key. {did_you_mean(key, known)}".rstrip()
    return f"{key}: {item['msg']}, got {item['input']!r}"
