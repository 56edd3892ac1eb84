"""Settings of runs on pictures, the section `image`."""

from __future__ import annotations

from pydantic import Field

from petrun.config.section import Section


class ImageConfig(Section):
    resolution: int | None = Field(
        None, ge=8, description="side of the pictures in pixels; default: as the U-Net was trained (sample_size)"
    )
    flip: bool = Field(False, description="mirror half of the pictures of each step, drawn by chance")
    min_snr: float | None = Field(
        None,
        gt=0,
        description="weigh steps of the noise by at most this signal-to-noise ratio (usually 5); default: all alike",
    )
    offset_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="add this share of a noise that is the same in all pixels of a channel (usually 0.1)",
    )
