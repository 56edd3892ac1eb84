"""`petrun generate --task image`: files and what they say, and what is refused by name."""

import shutil
from functools import partial

import mindspore as ms
import pytest
from PIL import Image

from petrun.inference.pictures import image_model
from petrun.inference.pictures.written import WrittenPicture, write_sheet
from petrun.parallel.context import setup
from tests.models.pipelines import write_pipeline, write_style


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_pipeline(folder / "pipe")
    write_style(folder / "ink.ckpt", rank=2)
    return folder


@pytest.fixture
def studio(files, tmp_path, monkeypatch, outside):
    """pipe, a pipeline, and ink.ckpt, a LoRA on it: the current folder."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    return tmp_path


OF_TEXT = ("no-history", "json", "max-new-tokens", "base-bits", "stop")
DRAW = "generate --task image --base pipe --device cpu --out pics "


def test_pictures_say_how_they_were_drawn(studio, petrun, monkeypatch):
    """Given a prompt with two uses, and one of a file with its own: PNG files of number and seed, and a sheet of all."""
    monkeypatch.setattr(image_model, "setup", partial(setup, pynative=True))
    (studio / "prompts.jsonl").write_text('{"prompt": "a red", "delta": "ink:0.5"}\n')
    line = (
        DRAW
        + "--delta ink.ckpt --use off --use ink --prompt red --prompts prompts.jsonl --count 2 --seed 7 --steps 1 --size 16x8"
    )
    done = petrun(line + " --negative blue --sampler euler --batch-size 4")
    ms.set_context(mode=ms.GRAPH_MODE)
    assert done.code == 0, done.err
    assert "wrote pics: 6 pictures and sheet.html (euler, 1 steps, guidance 7.5, 16x8)" in done.out
    names = [f"{number:03d}-seed{7 + (number - 1) % 2}.png" for number in range(1, 7)]
    assert sorted(path.name for path in (studio / "pics").iterdir()) == [*names, "sheet.html"]
    opened = [Image.open(studio / "pics" / name) for name in names]
    assert {each.size for each in opened} == {(16, 8)}
    texts = [each.text for each in opened]
    assert [(t["prompt"], t["seed"]) for t in texts] == [(p, s) for p in ("red", "red", "a red") for s in ("7", "8")]
    assert {t["negative"] for t in texts} == {"blue"} and all(t["base"].startswith("pipe, digest ") for t in texts)
    assert "deltas" not in texts[0] and texts[2]["deltas"].startswith("ink:1, digest ")
    assert texts[4]["deltas"].startswith("ink:0.5, digest ")
    sheet = (studio / "pics" / "sheet.html").read_text()
    assert all(f'src="{name}"' in sheet for name in names) and "ink:0.5, seed 8" in sheet
    done = petrun(line)
    assert done.code and "pics: exists and is not an empty folder" in done.err


def test_texts_of_a_sheet_are_escaped(tmp_path):
    picture = WrittenPicture(file="001-seed1.png", prompt='<b>一只"狐狸"', use="off", seed=1)
    write_sheet(tmp_path, [picture], "ddim")
    assert "&lt;b&gt;一只&#34;狐狸&#34;</h2>" in (tmp_path / "sheet.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (DRAW, ["--prompt or --prompts is missing"]),
        (DRAW.replace("--out pics", "--prompt red"), ["--out is missing: the folder for the pictures"]),
        (DRAW + "--prompt red --temperature 1 --no-history --json --max-new-tokens 5 --base-bits 8 --stop x",
         ["--temperature: has no effect on pictures", *(f"--{each}: has" for each in OF_TEXT)]),
        (DRAW + "--prompt red --guidance 1 --negative blue", ["--negative: has no effect with --guidance 1"]),
        (DRAW + "--prompt red --count 0 --seed -1 --sampler dim",
         ["--count 0: must be at least 1", "--seed -1", "--sampler dim: is none. Did you mean ddim"]),
        (DRAW + "--prompt red --size 16", ["--size 16: is not WIDTHxHEIGHT"]),
        (DRAW + "--prompt red --size 16x18", ["--size 16x18: both must be multiples of 4", "Give 16x16"]),
        (DRAW + "--prompt red --steps 1000", ["--steps 1000: must be at least 1 and below the 1000 steps"]),
        (DRAW + "--prompt red --delta ink.ckpt --use inc:0.5", ["--use inc:0.5: no delta is called 'inc'. Did you mean ink"]),
        (DRAW + "--prompt red --set optim.lr=1", ["--set optim.lr: has no effect on this command"]),
        (DRAW + "--prompt red --set model.quant=int8", ["the nets of a pipeline are not quantised"]),
        (DRAW + "--prompts talk.jsonl", ["prompt 1: system has no effect on pictures"]),
        ("generate --task image --out pics --prompt red", ["--task image needs --base DIR"]),
        ("generate --base pipe --prompt hello", ["pipe: is a pipeline that makes pictures", "petrun generate draws with it"]),
        ("generate --prompt hello --steps 5 --out pics --count 2", ["--steps: has no effect on text", "--out: has", "--count: has"]),
        ("generate --prompt hello --task lm", ["--task lm: this command takes image"]),
        ("generate --prompt hello --use off --use off", ["--use off: text begins with one delta"]),
    ],
)  # fmt: skip
def test_what_is_refused(studio, petrun, line, words):
    (studio / "talk.jsonl").write_text('{"prompt": "red", "system": "be short"}\n')
    done = petrun(line)
    said = " ".join(done.err.split())
    assert done.code and all(word in said for word in words), done.err
    assert "Traceback" not in done.err and not (studio / "pics").exists()
