"""Load a pipeline and named deltas into one U-Net that draws with any of them, and with weighted sums of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.config.commands.text import SessionSettings
from petrun.config.effect import BASE_KEYS, require_read
from petrun.config.load import load_run_config
from petrun.config.schema import RunConfig
from petrun.data.tasks import IMAGE
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.inference.assembly import fit_delta, open_base, open_delta, require_matching_family
from petrun.inference.base_info import read_base_info
from petrun.inference.blends import Blend
from petrun.inference.delta_tokenizer import note_tokenizer
from petrun.inference.generation.multi_delta import attach_deltas, named_paths
from petrun.inference.multi_adapter import MultiAdapter
from petrun.inference.pictures.rows import tokenizer_of
from petrun.models.base import LoadedModel
from petrun.models.pipeline import Pipeline
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.context import setup


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """A U-Net that draws with any of several deltas, and what stands around it."""

    pipeline: Pipeline
    loaded: LoadedModel
    multi_adapter: MultiAdapter
    tokenizer: Tokenizer
    blends: Mapping[str, Blend]
    """Name of a use, "off" for the base -> its deltas and their weights."""
    digests: Mapping[str, str]
    """Name of a delta -> SHA-256 of its tensors."""


def open_image_model(
    settings: SessionSettings, config: RunConfig, pipeline: Pipeline, blends: Mapping[str, Blend], rows: int
) -> ImageModel:
    """Load a pipeline's nets and the deltas. `config`: see resolve_image; `blends`: by name, as ImageModel has them; `rows`: of a batch.

    Raises ConfigError, ModelError, DeltaError as loading a base and its deltas does.
    """
    deltas = {name: open_delta(path, settings.alpha) for name, path in named_paths(settings.deltas).items()}
    tokenizer = tokenizer_of(pipeline)
    device = setup(config.device, config.model.dtype)
    use_compile_cache(config)
    info = read_base_info(config)
    for delta in deltas.values():
        require_matching_family(delta, info.hf_config)
    loaded = open_base(config.model, device, task=IMAGE, num_labels=None, seed=0)
    fitted = {name: fit_delta(delta, loaded, settings.alpha) for name, delta in deltas.items()}
    for delta in deltas.values():
        note_tokenizer(delta, tokenizer)
    weighed = {name: blend for name, blend in blends.items() if blend and name not in deltas}
    loaded, multi_adapter = attach_deltas(loaded, fitted, rows, weighed)
    return ImageModel(
        pipeline=pipeline,
        loaded=loaded,
        multi_adapter=multi_adapter,
        tokenizer=tokenizer,
        blends=blends,
        digests={name: _digest(delta) for name, delta in fitted.items()},
    )


def resolve_image(settings: SessionSettings) -> RunConfig:
    """Return the settings of the base. Raises ConfigError for others."""
    flags = {
        "model.base": ("--base", settings.base),
        "device": ("--device", settings.device),
        "compile_cache": ("--no-compile-cache", False if settings.no_compile_cache else None),
    }
    given = {key: pair for key, pair in flags.items() if pair[1] is not None}
    resolved = load_run_config(None, {"data.task": ("--task", IMAGE), **given}, settings.settings)
    require_read(resolved, (*BASE_KEYS, "data.task"))
    return resolved.config


def _digest(delta: Delta) -> str:
    """Return a delta's digest; of another tool's file that of the tensors that it became."""
    return delta.digest or arrays_digest(delta.tensors)
