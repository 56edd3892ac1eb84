"""`petrun generate --task image`: draw the prompts of flags and files with a pipeline and any number of deltas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petrun import console
from petrun.commands.draw_request import Prompt, read_drawing, read_prompts
from petrun.config.commands.text import GenerateSettings
from petrun.inference.blends import OFF, Blend, parse_blend, spell_blend
from petrun.inference.generation.multi_delta import named_paths
from petrun.inference.pictures.drawing import ImageGenerator, PictureRequest
from petrun.inference.pictures.image_model import open_image_model, resolve_image
from petrun.inference.pictures.rows import pipeline_of
from petrun.inference.pictures.written import SHEET, WrittenPicture, require_pillow, write_png, write_sheet
from petrun.tensors.atomic import output_error, refuse_occupied


def run(settings: GenerateSettings) -> None:
    """Draw every prompt with every use and every seed, write the pictures and the sheet.

    Raises ConfigError, DataError, ModelError, DeltaError, OutputError.
    """
    prompts = read_prompts(settings)
    assert settings.out is not None
    out = Path(settings.out).expanduser()
    refuse_occupied(out)
    require_pillow()
    requests, blends = _requests(settings, prompts)
    batch = min(settings.batch_size, len(requests))
    config = resolve_image(settings)
    pipeline = pipeline_of(config)
    how = read_drawing(settings, pipeline)
    model = open_image_model(settings, config, pipeline, blends, batch * (2 if how.is_guided else 1))
    generator = ImageGenerator(model, how, batch)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    _write(generator, requests, out)


def _requests(settings: GenerateSettings, prompts: Sequence[Prompt]) -> tuple[list[PictureRequest], dict[str, Blend]]:
    """Return every picture to draw, and the blends of deltas that they use, by name."""
    names = tuple(named_paths(settings.deltas))
    given = [parse_blend(use, names, "--use") for use in settings.use or (names[0] if names else OFF,)]
    requests, blends = [], {spell_blend(blend): blend for blend in given}
    for each in prompts:
        own = given if each.use is None else [parse_blend(each.use, names, each.where)]
        blends |= {spell_blend(blend): blend for blend in own}
        requests += [
            PictureRequest(prompt=each.text, where=each.where, use=spell_blend(blend), seed=settings.seed + n)
            for blend in own
            for n in range(settings.count)
        ]
    return requests, blends


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
