"""What `petrun generate --task image` is asked for: prompts, and how they are drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass

from petrun.commands.generate import read_rows
from petrun.config.commands.drawing import SAMPLERS
from petrun.config.commands.text import GenerateSettings
from petrun.config.effect import require_effect
from petrun.errors import ConfigError, did_you_mean
from petrun.evaluate.samplers import plan_steps, read_sampler_fields
from petrun.inference.pictures.drawing import Drawing
from petrun.models.pipeline import Pipeline

_OF_TEXT = (
    "model", "quant", "template", "as_json", "max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "no_history",
)  # fmt: skip
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to draw."""

    text: str
    where: str
    use: str | None
    """None: those of --use."""


def read_prompts(settings: GenerateSettings) -> list[Prompt]:
    """Return the prompts. Raises ConfigError for options without effect on pictures and numbers out of range, DataError."""
    require_effect(settings, _OF_TEXT, "on pictures")
    if settings.guidance <= 1:
        require_effect(settings, ("negative",), f"with --guidance {settings.guidance:g}", "Give a --guidance above 1.")
    wrong = [
        f"{flag} {value}: must be at least 1"
        for flag, value in (("--count", settings.count), ("--batch-size", settings.batch_size))
        if value < 1
    ]
    if not 0 <= settings.seed <= _MOST_SEED - settings.count:
        wrong.append(f"--seed {settings.seed}: must be 0 or more, and below 2^63 with --count added")
    if not 0 <= settings.guidance < 1e6:
        wrong.append(f"--guidance {settings.guidance:g}: must be a number of 0 or more")
    if settings.sampler not in SAMPLERS:
        wrong.append(f"--sampler {settings.sampler}: is none. {did_you_mean(settings.sampler, SAMPLERS)}".rstrip())
    if settings.out is None:
        wrong.append("--out is missing: the folder for the pictures")
    if not settings.prompt and settings.prompts is None:
        wrong.append("--prompt or --prompts is missing: what to draw")
    if wrong:
        raise ConfigError("\n".join(wrong), hint='Example: --prompt "a fox in the snow" --out pics')
    found = []
    for number, row in enumerate(read_rows(settings.prompt, settings.prompts), 1):
        where = f"prompt {number}"
        if not isinstance(row.prompt, str) or row.cells:
            key = next(iter(row.cells), "messages")
            raise ConfigError(
                f"{where}: {key} has no effect on pictures", hint="A prompt is a text, perhaps with delta."
            )
        found.append(Prompt(text=row.prompt.strip(), where=where, use=row.delta))
    return found


def read_drawing(settings: GenerateSettings, pipeline: Pipeline) -> Drawing:
    """Return how pictures are drawn. Raises ConfigError for a size that the nets cannot halve so often, and for steps that the sampler
    cannot take.
    """
    width = height = pipeline.side
    if settings.size is not None:
        if not (size := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", settings.size)):
            raise ConfigError(f"--size {settings.size}: is not WIDTHxHEIGHT in pixels", hint="Example: --size 512x768")
        width, height = int(size[1]), int(size[2])
    by = pipeline.side_multiple
    if width % by or height % by:
        near = "x".join(str(max(1, round(side / by)) * by) for side in (width, height))
        raise ConfigError(
            f"--size {width}x{height}: both must be multiples of {by}, by which the pipeline divides them",
            hint=f"Give {near}.",
        )
    return Drawing(
        sampler=settings.sampler,
        steps=plan_steps(settings.sampler, pipeline.schedule, read_sampler_fields(pipeline.folder), settings.steps),
        guidance=settings.guidance,
        negative=settings.negative,
        width=width,
        height=height,
    )
