"""`petrun generate --task image`: pictures from a pipeline and several deltas."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import DATA, like, option

PICTURES = "Pictures"
SAMPLERS = ("ddim", "euler", "dpm++")


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """What is drawn, and how."""

    task: str | None = like(
        "data.task", "image draws pictures with a Stable-Diffusion pipeline. Default: text is generated.", DATA
    )
    negative: str = option("--negative", "What the pictures shall not show. Default: nothing.", PICTURES, default="")
    count: int = option(
        "--count", "Pictures of each prompt, of the seeds --seed, --seed + 1 and so on. Default 1.", PICTURES, default=1
    )
    steps: int = option("--steps", "Steps from noise to picture. Default 30.", PICTURES, default=30)
    guidance: float = option(
        "--guidance",
        "How much farther than the prompt alone the picture goes from what is drawn without it; 1: no farther. Default 7.5.",
        PICTURES,
        default=7.5,
    )
    sampler: str = option(
        "--sampler", f"{', '.join(SAMPLERS)}. Default ddim.", PICTURES, default="ddim", choices=lambda: SAMPLERS
    )
    size: str | None = option(
        "--size", "Width and height in pixels. Default: as the U-Net was trained.", PICTURES, metavar="WxH"
    )
    out: str | None = option("--out", "Folder for the pictures and sheet.html, new or empty.", PICTURES)


DRAWING = ("negative", "count", "steps", "guidance", "sampler", "size", "out")
"""Fields that have no effect on text."""
