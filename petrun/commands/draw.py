"""`petrun generate --task image`: draw the prompts of flags and files with a pipeline and any number of deltas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun import console
from petrun.commands.generate import read_rows
from petrun.config.commands.drawing import SAMPLERS
from petrun.config.commands.text import GenerateSettings
from petrun.config.effect import require_effect
from petrun.errors import ConfigError, did_you_mean
from petrun.evaluate.samplers import plan_steps, read_sampler_fields
from petrun.inference.blends import OFF, parse_blend, spell_blend
from petrun.inference.generation.multi_delta import named_paths
from petrun.inference.pictures.drawing import Drawing, ImageGenerator, PictureRequest
from petrun.inference.pictures.image_model import ImageModel, open_image_model, resolve_image
from petrun.inference.pictures.rows import pipeline_of
from petrun.inference.pictures.written import SHEET, WrittenPicture, require_pillow, write_png, write_sheet
from petrun.models.pipeline import Pipeline
from petrun.tensors.atomic import output_error, refuse_occupied

_OF_TEXT = (
    "model", "quant", "template", "as_json", "max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "no_history",
)  # fmt: skip
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    text: str
    where: str
    use: str | None
    """None: those of --use."""


def run(settings: GenerateSettings) -> None:
    """Draw every prompt with every use and every seed, write the pictures and the sheet.

    Raises ConfigError, DataError, ModelError, DeltaError, OutputError.
    """
    prompts = _checked(settings)
    assert settings.out is not None
    out = Path(settings.out).expanduser()
    refuse_occupied(out)
    require_pillow()
    uses = settings.use or (next(iter(named_paths(settings.deltas)), OFF),)
    given = [("--use", use) for use in uses] + [(each.where, each.use) for each in prompts if each.use is not None]
    pictures = sum(1 if each.use is not None else len(uses) for each in prompts) * settings.count
    batch = min(settings.batch_size, pictures)
    config = resolve_image(settings)
    how = _drawing(settings, pipeline_of(config))
    model = open_image_model(settings, config, given, batch * (2 if how.is_guided else 1))
    generator = ImageGenerator(model, how, batch)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    _write(generator, _requests(settings, prompts, uses, model), out)


def _checked(settings: GenerateSettings) -> list[_Prompt]:
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
        found.append(_Prompt(text=row.prompt.strip(), where=where, use=row.delta))
    return found


def _drawing(settings: GenerateSettings, pipeline: Pipeline) -> Drawing:
    """Raises ConfigError for a size that the nets cannot halve so often, and for steps that the sampler cannot take."""
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


def _requests(
    settings: GenerateSettings, prompts: Sequence[_Prompt], uses: Sequence[str], model: ImageModel
) -> list[PictureRequest]:
    names = tuple(model.digests)
    return [
        PictureRequest(
            prompt=each.text,
            where=each.where,
            use=spell_blend(parse_blend(use, names, each.where)),
            seed=settings.seed + n,
        )
        for each in prompts
        for use in (uses if each.use is None else (each.use,))
        for n in range(settings.count)
    ]


def _write(generator: ImageGenerator, requests: Sequence[PictureRequest], out: Path) -> None:
    """Write each picture when it is drawn, then the sheet."""
    model, how = generator.model, generator.how
    steps = len(how.steps.times)
    told = f"{how.sampler}, {steps} steps, guidance {how.guidance:g}, {how.width}x{how.height}"
    shared = {
        "sampler": how.sampler,
        "steps": str(steps),
        "guidance": f"{how.guidance:g}",
        "negative": how.negative,
        "base": f"{model.pipeline.folder.resolve().name}, digest {model.loaded.base_digest}",
    }
    written = []
    for number, (each, pixels) in enumerate(zip(requests, generator.draw(requests), strict=True), 1):
        name = f"{number:03d}-seed{each.seed}.png"
        blend = model.blends[each.use]
        deltas = "\n".join(f"{delta}:{weight:g}, digest {model.digests[delta]}" for delta, weight in blend.items())
        write_png(
            out / name,
            pixels,
            {"prompt": each.prompt, "seed": str(each.seed), **shared, **({"deltas": deltas} if deltas else {})},
        )
        written.append(WrittenPicture(file=name, prompt=each.prompt, use=each.use, seed=each.seed))
    write_sheet(out, written, told)
    console.tell(f"wrote {out}: {len(written)} pictures and {SHEET} ({told})")
