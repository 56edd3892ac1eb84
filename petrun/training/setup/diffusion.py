"""Set up a run on pictures: its loss, and what it refuses."""

from __future__ import annotations

from petrun.config.schema import RunConfig
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.inference.pictures.rows import pipeline_of
from petrun.models.base import LoadedModel
from petrun.parallel.layout import Layout
from petrun.train.diffusion import DiffusionLoss, DiffusionSettings


def require_possible_on_pictures(config: RunConfig, layout: Layout) -> None:
    """Raise ConfigError for split operators, and for a method with a loss of its own."""
    if layout.split:
        raise ConfigError(f"--parallel {layout}: the U-Net is held whole by every rank", hint="Use dp alone.")
    if config.parallel.recompute != "none":
        raise ConfigError(
            f"--recompute {config.parallel.recompute}: is not made for the U-Net yet",
            hint="Leave it out, or lower --batch-size.",
        )
    if find_method(config.algo).needs_classes:
        raise ConfigError(
            f"--algo {config.algo} compares two predictions of one row, and image has a loss of its own",
            hint="Choose an --algo without it.",
        )


def build_diffusion_loss(config: RunConfig, loaded: LoadedModel, layout: Layout) -> DiffusionLoss:
    """Build the loss of the U-Net, by the pipeline's schedule."""
    pipeline, given = pipeline_of(config), config.image
    settings = DiffusionSettings(
        scaling=pipeline.autoencoder.scaling,
        min_snr=given.min_snr,
        offset_noise=given.offset_noise,
        flip=given.flip,
    )
    return DiffusionLoss(loaded.net, pipeline.schedule, settings, config.train.seed)
