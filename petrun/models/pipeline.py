"""Read a Stable-Diffusion pipeline in diffusers' layout: a folder with model_index.json and a folder for each net, with its config.json.

The net that trains is the U-Net. The autoencoder and the text encoder compute what it reads, and stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petrun.errors import ModelError
from petrun.models import autoencoder_kl, clip_text, unet
from petrun.models.autoencoder_kl import AutoencoderConfig
from petrun.models.base import Family, LoadedModel
from petrun.models.builtin import BaseConfig, Head, assemble
from petrun.models.clip_text import ClipTextConfig
from petrun.models.folder import CONFIG, read_json
from petrun.models.noise_schedule import NoiseSchedule, read_schedule
from petrun.models.unet_net import UnetConfig
from petrun.models.weights import match, open_weights, stored_digest
from petrun.typing import JsonObject

INDEX = "model_index.json"
UNET, AUTOENCODER, TEXT_ENCODER, TOKENIZER = "unet", "vae", "text_encoder", "tokenizer"
"""Folders of a pipeline."""
_LAYOUT = f"--base takes a folder in diffusers' layout: {INDEX}, {UNET}, {TEXT_ENCODER}, {AUTOENCODER}, {TOKENIZER}, scheduler."


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The configs of a pipeline's parts."""

    folder: Path
    unet: UnetConfig
    autoencoder: AutoencoderConfig
    text: ClipTextConfig
    schedule: NoiseSchedule

    @property
    def side_multiple(self) -> int:
        """Pixels by which the side of a picture is divided until the coarsest level of the U-Net."""
        return int(self.autoencoder.factor * 2 ** (len(self.unet.widths) - 1))

    @property
    def side(self) -> int:
        """Height and width in pixels of the pictures that the U-Net was trained on."""
        return int(self.unet.size * self.autoencoder.factor)


def is_pipeline(base: Path | None) -> bool:
    """Return whether a base is a pipeline that makes pictures."""
    return base is not None and (base / INDEX).is_file()


def require_no_pipeline(base: Path | None) -> None:
    """Raise ModelError for a pipeline, where a model of texts is needed."""
    if is_pipeline(base):
        raise ModelError(
            f"{base}: is a pipeline that makes pictures ({INDEX}), not a model of texts",
            hint="With --task image, petrun train trains its U-Net, and petrun generate draws with it.",
        )


def read_unet_config(base: Path | None, family: str | None, config: Path | None) -> tuple[Path, JsonObject, Family]:
    """Return the path of the U-Net's config.json, its content with the model_type "unet", and its family. Raises ModelError."""
    if base is None or not is_pipeline(base):
        raise ModelError(f"{base or 'no base'}: --task image needs a pipeline, and there is no {INDEX}", hint=_LAYOUT)
    if family is not None or config is not None:
        raise ModelError(
            f"{'--model' if family is not None else 'model.config'}: a pipeline's own files say what its nets are",
            hint="Leave it out.",
        )
    path = base / UNET / CONFIG
    raw = _read(path, unet.FAMILY)
    return path, {**raw, "model_type": unet.FAMILY.name}, unet.FAMILY


def read_pipeline(folder: Path) -> Pipeline:
    """Read the configs of all parts. Raises ModelError where one is not supported, or where two do not fit together."""
    _, raw, family = read_unet_config(folder, None, None)
    pipeline = Pipeline(
        folder=folder,
        unet=_parse(folder / UNET, family, raw).config,  # type: ignore[arg-type]
        autoencoder=_described(folder / AUTOENCODER, autoencoder_kl.FAMILY).config,  # type: ignore[arg-type]
        text=_described(folder / TEXT_ENCODER, clip_text.FAMILY).config,  # type: ignore[arg-type]
        schedule=read_schedule(folder),
    )
    net, latents = pipeline.unet, pipeline.autoencoder.latents
    problems = [
        f"{UNET} {what} {ours}, and {part} has {theirs}"
        for what, ours, part, theirs in (
            ("reads channels:", net.channels_in, f"{AUTOENCODER} latent_channels", latents),
            ("predicts channels:", net.channels_out, f"{AUTOENCODER} latent_channels", latents),
            ("has cross_attention_dim", net.hidden, f"{TEXT_ENCODER} hidden_size", pipeline.text.hidden),
        )
        if ours != theirs
    ]
    if problems:
        raise ModelError(
            f"{folder}: {'; '.join(problems)}", hint="Pipelines for inpainting and the like are not supported."
        )
    return pipeline


def load_part(folder: Path, family: Family, *, compute_dtype: str = "float32") -> LoadedModel:
    """Build the net of a folder and load its weights strictly; it is returned in eval mode.

    Raises ModelError (config.json) and WeightsError (the tensors).
    """
    return assemble(open_weights(folder), _described(folder, family), Head(), compute_dtype, 0)


def part_digest(folder: Path, family: Family) -> str:
    """Return the digest of a net's weights without building it. Raises as `load_part`."""
    config = _described(folder, family).config
    reader = open_weights(folder)
    return stored_digest(reader, match(reader, family.names(config), family.prefixes, family.ignored))


def _described(folder: Path, family: Family) -> BaseConfig:
    return _parse(folder, family, _read(folder / CONFIG, family))


def _read(path: Path, family: Family) -> JsonObject:
    """Read a config.json. Raises ModelError for one of another class."""
    raw = read_json(path)
    # diffusers states the class, transformers the model_type as well.
    key = "_class_name" if "_class_name" in raw else "model_type"
    known = tuple(family.hf_classes.values()) if key == "_class_name" else family.model_types
    if raw.get(key) not in known:
        raise ModelError(f"{path}: {key} = {raw.get(key)!r} is not supported; supported: {', '.join(known)}")
    return raw


def _parse(folder: Path, family: Family, raw: JsonObject) -> BaseConfig:
    path = folder / CONFIG
    try:
        return BaseConfig(path=path, raw=raw, family=family, config=family.parse(raw))
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error
