"""Folders of pictures: captions in both forms, what is refused by name, and the numbers of a picture."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from petrun.data.pictures import pixels_of, read_folder
from petrun.errors import DataError, SetupError
from tests.models.pipelines import write_pictures


def write_lines(folder, *rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def pics(tmp_path):
    return write_pictures(tmp_path / "pics", ("一个 红圆", "a blue\nsquare"))


@pytest.fixture
def bare(pics):
    """Two pictures without captions."""
    for path in pics.glob("*.txt"):
        path.unlink()
    return pics


def test_captions_beside_the_pictures(pics):
    (pics / "10.PNG").write_bytes((pics / "0.png").read_bytes())
    (pics / "10.txt").write_text("a circle")
    (pics / "notes.md").write_text("not a caption")
    (pics / ".hidden").write_text("x")
    found = read_folder(pics, {})
    assert [each.path.name for each in found.pictures] == ["0.png", "1.png", "10.PNG"]
    assert [each.caption for each in found.pictures][:2] == ["一个 红圆", "a blue square"]
    assert found.notes == (f"{pics}: 3 pictures read; left out: notes.md",)
    assert found.pictures[0].digest == found.pictures[2].digest != found.pictures[1].digest


def test_captions_in_another_encoding(pics):
    (pics / "0.txt").write_bytes("一个红圆，在蓝方上".encode("gb18030"))
    (pics / "1.txt").write_bytes("蓝方".encode("gb18030"))
    assert [each.caption for each in read_folder(pics, {}, "gb18030").pictures] == ["一个红圆，在蓝方上", "蓝方"]


def test_captions_in_metadata(bare):
    """Given lines in another order and another column, the pictures come in that order, and what is not read is named."""
    write_lines(
        bare, {"file_name": "1.png", "legend": "蓝方", "id": 7}, {"file_name": "0.png", "legend": "红圆", "id": 8}
    )
    found = read_folder(bare, {"text": "legend"})
    assert [(each.path.name, each.caption) for each in found.pictures] == [("1.png", "蓝方"), ("0.png", "红圆")]
    assert found.unused_columns == ("id",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file_name": "0.png", "text": "a"}], r"no line of metadata.jsonl for: 1.png"),
        ([{"file_name": "0.png", "text": "a"}, {"file_name": "2.png", "text": "b"}], r"line 2: 2.png is no picture of the folder. Did"),
        ([{"file_name": "0.png", "text": "a"}] * 2, r"line 2: 0.png has a caption already, .*line 1"),
        ([{"file_name": "0.png", "text": " "}], r"line 1: no text in 'text'"),
        ([{"file": "0.png", "text": "a"}], r"line 1: no text in 'file_name'"),
    ],
)  # fmt: skip
def test_refused_metadata(bare, rows, message):
    write_lines(bare, *rows)
    with pytest.raises(DataError, match=message):
        read_folder(bare, {})


def test_refused_folders(pics, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read_folder(pics / "0.png", {})
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds no picture \(.bmp, .jpeg"):
        read_folder(tmp_path / "none", {})
    with pytest.raises(DataError, match=r"data.columns names columns of metadata.jsonl"):
        read_folder(pics, {"text": "legend"})
    write_lines(pics, {"file_name": "0.png", "text": "a"})
    with pytest.raises(DataError, match=r"captions stand in metadata.jsonl and in 0.txt"):
        read_folder(pics, {})
    (pics / "metadata.jsonl").unlink()
    (pics / "1.txt").unlink()
    with pytest.raises(DataError, match=r"no caption: neither metadata.jsonl nor a .txt file beside: 1.png"):
        read_folder(pics, {})


def test_pixels_are_scaled_cut_and_centred(tmp_path):
    """Given a wide picture, its middle square is taken, in [-1, 1]; one that a camera turned is turned back; glass lies on white."""
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :4], wide[:, 4:12], wide[:, 12:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = pixels_of(tmp_path / "wide.png", 8)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array([-1, 1, -1], np.float32)[:, None, None], (3, 8, 8)))
    half = pixels_of(tmp_path / "wide.png", 4)
    assert half.shape == (3, 4, 4) and (half[1, :, 1:3] == 1).all()
    turned = Image.fromarray(wide[:, :8])
    tags = turned.getexif()
    tags[0x0112] = 3
    turned.save(tmp_path / "turned.png", exif=tags)
    np.testing.assert_array_equal(pixels_of(tmp_path / "turned.png", 8)[0, :, 4:], 1.0)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    assert (pixels_of(tmp_path / "glass.png", 8) == 1.0).all()


def test_files_that_are_no_pictures_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"a.png: is no picture that can be read"):
        pixels_of(tmp_path / "a.png", 8)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b.png: is no picture that can be read"):
        pixels_of(tmp_path / "b.png", 8)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "c.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"c.webp: holds 2 pictures"):
        pixels_of(tmp_path / "c.webp", 8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SetupError, match="Pillow, which is not installed"):
        pixels_of(tmp_path / "a.png", 8)
