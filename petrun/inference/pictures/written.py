"""Write pictures: PNG files that say how they were drawn, and a page that shows them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jinja2

from petrun import __version__
from petrun.errors import SetupError
from petrun.tensors import Array, atomic_file
from petrun.tensors.output import write_text

SHEET = "sheet.html"
_TEMPLATE = Path(__file__).with_name(SHEET)


@dataclass(frozen=True, kw_only=True)
class WrittenPicture:
    """A picture of the sheet."""

    file: str
    """Its name in the sheet's folder."""
    prompt: str
    use: str
    seed: int


def require_pillow() -> None:
    """Raise SetupError where Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise SetupError(
            "pictures are written with Pillow, which is not installed", hint="pip install 'petrun[image]'"
        ) from None


def write_png(path: Path, pixels: Array, texts: Mapping[str, str]) -> None:
    """Write a picture, (height, width, 3) uint8, with text fields. Raises OutputError."""
    from PIL import Image, PngImagePlugin

    fields = PngImagePlugin.PngInfo()
    for key, text in {**texts, "Software": f"petrun {__version__}"}.items():
        # UTF-8, which plain text fields of PNG do not have.
        fields.add_itxt(key, text)
    with atomic_file(path) as (file, _):
        Image.fromarray(pixels).save(file, "PNG", pnginfo=fields)


def write_sheet(folder: Path, pictures: Sequence[WrittenPicture], how: str) -> None:
    """Write the page of a folder's pictures: a line for each prompt, and under each picture its seed and what it was drawn with."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    lines = [(prompt, list(found)) for prompt, found in groupby(pictures, key=lambda each: each.prompt)]
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(folder / SHEET, template.render(lines=lines, how=how, version=__version__))
