"""The pictures of docs/pictures.md are those of scripts/make_pictures.py, of modest size, and each stands below its command."""

import re
import struct

import pytest

from scripts import make_pictures
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^    petrun (.+)\n\n!\[[^\]]+\]\(pictures/([\w-]+)\.png\)$", PAGE, re.MULTILINE)


def test_each_picture_stands_below_the_command_that_the_script_runs():
    made = {picture.name: picture.arguments for picture in make_pictures.PICTURES}
    assert {name: arguments for arguments, name in SHOWN} == made
    assert {path.stem for path in (ROOT / "docs" / "pictures").iterdir()} == set(made)


@pytest.mark.parametrize("name", [name for _, name in SHOWN])
def test_pictures_are_whole_and_small(name):
    content = (ROOT / "docs" / "pictures" / f"{name}.png").read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    assert len(content) < 150_000 and 300 <= width <= 1200 and 150 <= height <= 1600


def test_a_terminal_keeps_colours_over_lines_and_no_path_of_the_machine():
    """Given a green text of two lines, then both are green in the page; what was left out is said."""
    picture = make_pictures.Picture(name="x", arguments="plan", lines=(0, 3))
    page, height = make_pictures.terminal_page(picture, "\x1b[32ma\r\nb\x1b[0m\r\nc\r\nd\r\n")
    green = re.findall(r'<span style="color: (#\w+)[^"]*">([ab])</span>', page)
    assert [text for _, text in green] == ["a", "b"] and len({colour for colour, _ in green}) == 1
    assert "\nc\n..." in page and "\nd" not in page and "$ petrun plan" in page
    assert height == 5 * make_pictures.LINE + 2 * make_pictures.MARGIN + make_pictures.HIDDEN
