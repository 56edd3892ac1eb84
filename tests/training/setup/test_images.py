"""Runs on pictures through the commands: what trains, what is cached, exact resume, and what is refused by name."""

import json
import shutil

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.errors import ConfigError
from petrun.inference.pictures import latents as module
from tests.models.diffusers_cases import SCHEDULERS
from tests.models.pipelines import write_pictures, write_pipeline
from tests.program import snapshot
from tests.training.checkpointing.test_resume import killed_at, log_of

CAPTIONS = ("a red circle", "a blue square", "a green circle")
TRAIN = "train --task image --base pipe --data pics --rank 2 --batch-size 3 --lr 0.01 --device cpu "


@pytest.fixture
def studio(tmp_path, monkeypatch, outside):
    """pipe, a pipeline, and pics, three pictures with captions: the current folder, with a cache of its own."""
    write_pipeline(tmp_path / "pipe")
    write_pictures(tmp_path / "pics", CAPTIONS)
    monkeypatch.chdir(tmp_path)
    for name, value in {**outside, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def kept(studio):
    return sorted(path.name for path in (studio / "cache" / "petrun" / "latents").iterdir())


FULL = (
    TRAIN
    + "--steps 3 --set image.flip=true --set image.min_snr=5 --set image.offset_noise=0.1 --save-every 1 --keep 9 "
)


def test_a_run_saves_a_lora(studio, petrun):
    """Given flips, offset noise and min-SNR: what is saved is the LoRA, which is written for diffusers and kohya as well."""
    done = petrun(FULL + "--out whole")
    assert done.code == 0, done.err
    assert "note: pics: 3 pictures read" in done.out and "3 rows for image" in done.out
    assert (
        "32 layers (q 8, k 8, v 8, out 8)" in done.out
        and "petrun eval" not in done.out
        and "--to diffusers --out" in done.out
    )
    delta = read_delta(studio / "whole" / "lora.ckpt")
    assert len(delta.tensors) == 64 and delta.manifest.task.name == "image" and delta.manifest.task.rows == "pictures"
    assert delta.manifest.base.name == "pipe" and delta.manifest.family == "unet"
    # Two sides of each picture, and each caption.
    assert len(kept(studio)) == 9
    for form in ("diffusers", "kohya"):
        done = petrun(f"delta convert whole --to {form} --out {form}.safetensors")
        assert done.code == 0 and f"a LoRA on 32 layers of a U-Net, in {form}'s names" in done.out, done.err


@pytest.mark.all_only
def test_a_resumed_run_equals_the_uninterrupted_one(studio, petrun):
    """Given a run that resumes after two of three steps: the same bytes. A renamed picture is known by its content, another is not."""
    assert petrun(FULL + "--out whole").code == 0
    first = kept(studio)
    copy = killed_at(studio / "whole", 2, studio / "copy")
    (studio / "pics" / "0.png").rename(studio / "pics" / "00.png")
    (studio / "pics" / "0.txt").rename(studio / "pics" / "00.txt")
    done = petrun("resume copy")
    assert done.code == 0, done.err
    assert (copy / "lora.ckpt").read_bytes() == (studio / "whole" / "lora.ckpt").read_bytes()
    assert log_of(copy) == log_of(studio / "whole") and kept(studio) == first
    shutil.copy(studio / "pics" / "1.png", studio / "pics" / "2.png")
    killed_at(studio / "whole", 2, studio / "other")
    done = petrun("resume other")
    assert done.code == 2 and "data.path: [content " in done.err


def test_latents_are_those_of_the_pictures(studio, petrun, monkeypatch):
    """Given velocity and Chinese captions: what the loss reads is what the nets compute, and nothing is computed twice."""
    shutil.rmtree(studio / "pipe")
    write_pipeline(studio / "pipe", SCHEDULERS["velocity"], chinese=True)
    write_pictures(studio / "pics", ("一个红圆", "一个蓝方", "红圆"))
    built, found = [], []
    monkeypatch.setattr(
        module, "load_part", lambda *given, load=module.load_part: built.append(given[1].name) or load(*given)
    )

    def add(*given, add=module.with_latents):
        found.append(add(*given))
        raise ConfigError("that is enough")

    monkeypatch.setattr("petrun.training.setup.training_setup.with_latents", add)
    for flags in ("", "--set data.cache=true", "--set data.cache=false"):
        assert "that is enough" in petrun(TRAIN + flags).err
    assert built == ["autoencoder_kl", "clip_text"] * 2
    one, again, afresh = (each.arrays for each in found)
    for name in ("latents", "states"):
        np.testing.assert_array_equal(one[name], again[name])
        np.testing.assert_array_equal(one[name], afresh[name])
    assert one["latents"].shape == (3, 2, 4, 8, 8) and one["states"].shape == (3, 9, 12)
    # [CLS] 一 个 红 圆 [SEP], padded to the positions of the text encoder.
    assert one["caption_ids"][0].tolist() == [2, 8, 9, 4, 6, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --task image --data pics", ["--task image needs --base DIR"]),
        (TRAIN.replace("--base pipe", "--base pics"), ["pics: --task image needs a pipeline, and there is no model_index.json"]),
        (TRAIN.replace("--task image", "--task lm"), ["pipe: is a pipeline that makes pictures", "With --task image, petrun train"]),
        (TRAIN + "--eval-data pics", ["--eval-data: petrun does not score pictures yet"]),
        (TRAIN + "--eval-split 0.5", ["--eval-split: petrun does not score pictures yet"]),
        (TRAIN + "--pack", ["--pack: pictures have no sequences"]),
        (TRAIN + "--template plain", ["--template: has no effect: the rows are pictures with captions"]),
        (TRAIN + "--base-bits 8", ["--base-bits int8: the nets of a pipeline are not quantised"]),
        (TRAIN + "--algo lora+r_drop", ["--algo lora+r_drop compares two predictions of one row"]),
        (TRAIN + "--model unet", ["--model: a pipeline's own files say what its nets are"]),
        (TRAIN + "--set image.resolution=18", ["image.resolution = 18: must be a multiple of 4", "Give 16"]),
        (TRAIN + "--data pics,pipe", ["--data: a run on pictures reads one folder"]),
        ("eval --task image --base pipe --data pics", ["--task image: pictures are not scored or predicted yet"]),
        ("generate --base pipe --prompt hello", ["pipe: is a pipeline that makes pictures"]),
        ("plan --on 8x910b --task image --base pipe --data pics", ["--on: what a step on pictures costs is not known yet"]),
        ("rehearse --task image --base pipe --data pics --ranks 1", ["--task image is not rehearsed"]),
    ],
)  # fmt: skip
def test_what_is_refused(studio, petrun, line, words):
    before = snapshot(studio / "pipe"), snapshot(studio / "pics")
    done = petrun(line)
    said = " ".join(done.err.split())
    assert done.code and all(word in said for word in words), done.err
    assert "Traceback" not in done.err and (snapshot(studio / "pipe"), snapshot(studio / "pics")) == before


def test_a_dry_run_shows_captions(studio, petrun):
    done = petrun(TRAIN + "--dry-run")
    assert done.code == 0 and "pics/1.png: a blue square" in done.out, done.err
    assert "unet, pipe" in done.out and not (studio / "runs").exists()


def test_settings_of_pictures_have_no_effect_on_texts(studio, petrun):
    done = petrun("train --set image.flip=true --steps 1")
    assert done.code and "image.flip: has no effect: the task is not image" in " ".join(done.err.split()), done.err


def test_parts_that_do_not_fit_together_are_named(studio, petrun):
    path = studio / "pipe" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
    done = petrun(TRAIN)
    assert done.code and "unet reads channels: 9, and vae latent_channels has 4" in " ".join(done.err.split()), done.err
