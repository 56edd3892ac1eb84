"""Read a folder of pictures with captions, and turn a picture into the numbers that an autoencoder reads.

Captions stand in metadata.jsonl, one object a line with `file_name` and `text`, or in a .txt file beside each picture.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petrun.data.formats.encoding import decode_text
from petrun.data.formats.folder import by_number
from petrun.data.formats.records import ABSENT, Array
from petrun.data.formats.source import read_source
from petrun.data.formats.table import read_records
from petrun.errors import DataError, SetupError, did_you_mean

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
METADATA = "metadata.jsonl"
FILE_NAME, TEXT = "file_name", "text"
_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture file and its caption."""

    path: Path
    caption: str
    where: str
    """Where the caption stands, for messages: 'pics/metadata.jsonl, line 3'."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file. Raises DataError."""
        return hashlib.sha256(_content(self.path)).digest()


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """The pictures of a folder, in the order of metadata.jsonl, else by name."""

    pictures: tuple[Picture, ...]
    unused_columns: tuple[str, ...] = ()
    """Columns of metadata.jsonl that nothing reads."""
    notes: tuple[str, ...] = ()


def read_folder(folder: Path, columns: Mapping[str, str], encoding: str | None = None) -> PictureFolder:
    """Read the captions of all pictures. `columns`: `file_name` and `text` -> their names in metadata.jsonl.

    Raises DataError naming every picture without a caption, every caption without a picture, and captions in both forms.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: is no folder; pictures are read from a folder", hint="Put pictures and captions into one."
        )
    files = sorted((p for p in folder.rglob("*") if _is_shown(p, folder)), key=by_number)
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{folder}: holds no picture ({', '.join(SUFFIXES)})")
    captions = [p for p in found if p.with_suffix(".txt").is_file()]
    used = {p.with_suffix(".txt") for p in captions} | {folder / METADATA}
    others = [p.relative_to(folder).as_posix() for p in files if p not in found and p not in used]
    listed = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
    notes = (f"{folder}: {len(found)} pictures read" + (f"; left out: {listed}" if others else ""),)
    if (folder / METADATA).is_file():
        if captions:
            raise DataError(
                f"{folder}: captions stand in {METADATA} and in {captions[0].with_suffix('.txt').name}",
                hint="Leave one of the two forms.",
            )
        pictures, unused = _from_metadata(folder, found, columns, encoding)
        return PictureFolder(pictures=pictures, unused_columns=unused, notes=notes)
    if columns:
        raise DataError(f"data.columns names columns of {METADATA}, and {folder} has none", hint="Leave it out.")
    _require_none(
        folder, [p for p in found if p not in captions], f"no caption: neither {METADATA} nor a .txt file beside"
    )
    return PictureFolder(pictures=tuple(_from_text(path, encoding) for path in found), notes=notes)


def _is_shown(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _require_none(folder: Path, paths: Sequence[Path], what: str) -> None:
    if paths:
        names = ", ".join(p.relative_to(folder).as_posix() for p in paths[:_NAMED])
        raise DataError(f"{folder}: {what}: {names}{', ...' if len(paths) > _NAMED else ''}")


def _from_text(path: Path, encoding: str | None) -> Picture:
    file = path.with_suffix(".txt")
    caption = " ".join(decode_text(read_source(file), encoding).text.split())
    return Picture(path=path, caption=caption, where=str(file))


def _from_metadata(
    folder: Path, found: Sequence[Path], columns: Mapping[str, str], encoding: str | None
) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Return the pictures in the file's order, and the columns that are not read."""
    wrong = [key for key in columns if key not in (FILE_NAME, TEXT)]
    if wrong:
        raise DataError(
            f"data.columns: {wrong[0]} is no column of pictures. {did_you_mean(wrong[0], (FILE_NAME, TEXT))}"
        )
    table = read_records(folder / METADATA, format="jsonl", encoding=encoding)
    names = {key: columns.get(key, key) for key in (FILE_NAME, TEXT)}
    pictures: dict[Path, Picture] = {}
    for row, (file, text) in enumerate(zip(*(table.column(names[key]) for key in (FILE_NAME, TEXT)), strict=True)):
        where = table.where(row)
        for key, value in ((FILE_NAME, file), (TEXT, text)):
            if value is ABSENT or not isinstance(value, str) or not value.strip():
                raise DataError(
                    f"{where}: no text in '{names[key]}'",
                    hint=f"Columns found: {', '.join(table.columns)}. Another name: --set data.columns.{key}=NAME.",
                )
        path = folder / str(file)
        if path not in found:
            near = did_you_mean(str(file), [p.relative_to(folder).as_posix() for p in found])
            raise DataError(f"{where}: {file} is no picture of the folder. {near}")
        if path in pictures:
            raise DataError(f"{where}: {file} has a caption already, {pictures[path].where}")
        pictures[path] = Picture(path=path, caption=" ".join(str(text).split()), where=where)
    _require_none(folder, [p for p in found if p not in pictures], f"no line of {METADATA} for")
    return tuple(pictures.values()), tuple(name for name in table.columns if name not in names.values())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def pixels_of(path: Path, side: int) -> Array:
    """Read a picture as (3, side, side) float32 in [-1, 1]: turned as its camera says, its shorter side scaled to `side` (bilinear), the
    middle cut out; transparent parts over white.

    Raises DataError for a file that is no picture, SetupError without Pillow.
    """
    image_class, turned, unreadable, bilinear = _pillow()
    try:
        with image_class.open(io.BytesIO(_content(path))) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise DataError(
                    f"{path}: holds {opened.n_frames} pictures, one after the other", hint="Save one of them."
                )
            picture = turned(opened)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = image_class.alpha_composite(image_class.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("RGB")
    except (unreadable, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: is no picture that can be read ({error})", hint="Save it again, or take it out."
        ) from error
    wide, high = picture.size
    scale = side / min(wide, high)
    size = max(side, round(wide * scale)), max(side, round(high * scale))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = picture.resize(size, bilinear).crop((left, top, left + side, top + side))
    return np.asarray(cut, np.float32).transpose(2, 0, 1) / np.float32(127.5) - np.float32(1.0)


def _pillow() -> tuple[Any, Any, type[Exception], Any]:
    """Return what is used of Pillow. Raises SetupError where it is not installed."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise SetupError(
            "pictures are read with Pillow, which is not installed", hint="pip install 'petrun[image]'"
        ) from None
    return Image, ImageOps.exif_transpose, UnidentifiedImageError, Image.Resampling.BILINEAR
