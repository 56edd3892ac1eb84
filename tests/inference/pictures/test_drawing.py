"""Drawing: the pictures of diffusers' pipeline, several deltas in one compiled graph, and weighted sums of them."""

import json
from functools import partial

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.config.commands.text import SessionSettings
from petrun.evaluate.samplers import plan_steps, read_sampler_fields
from petrun.graph.compilations import compilations
from petrun.inference.blends import parse_blend
from petrun.inference.pictures import image_model
from petrun.inference.pictures.drawing import Drawing, ImageGenerator, PictureRequest, to_pixels
from petrun.inference.pictures.image_model import open_image_model, resolve_image
from petrun.models import unet
from petrun.models.pipeline import read_pipeline
from petrun.parallel.context import setup
from tests.models.diffusers_cases import DRAWN, DRAWN_SEED, PROMPT, STORED, UNET
from tests.models.pipelines import write_part, write_pipeline, write_style


@pytest.fixture
def quick(monkeypatch):
    """Operator by operator: a graph takes seconds to compile."""
    monkeypatch.setattr(image_model, "setup", partial(setup, pynative=True))
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def generator(pipe, case, deltas=None, uses=("off",), batch=1):
    sampler, _, steps, guidance, negative = DRAWN[case]
    settings = SessionSettings(base=str(pipe), deltas=deltas or {}, device="cpu", no_compile_cache=True)
    pipeline = read_pipeline(pipe)
    how = Drawing(
        sampler=sampler,
        steps=plan_steps(sampler, pipeline.schedule, read_sampler_fields(pipe), steps),
        guidance=guidance,
        negative=negative,
        width=16,
        height=16,
    )
    rows = batch * (1 + how.is_guided)
    blends = {use: parse_blend(use, tuple(settings.deltas), "--use") for use in uses}
    model = open_image_model(settings, resolve_image(settings), pipeline, blends, rows)
    return ImageGenerator(model, how, batch)


def request(use="off", seed=DRAWN_SEED, prompt=PROMPT):
    return PictureRequest(prompt=prompt, where="prompt 1", use=use, seed=seed)


@pytest.mark.parametrize("case", DRAWN)
def test_pictures_are_those_of_diffusers(quick, tmp_path, case):
    """Given fixed noise: the pipeline's picture, guided and not, with its own reading of the scheduler's fields."""
    pipe = write_pipeline(tmp_path / "pipe", DRAWN[case][1])
    (found,) = generator(pipe, case).decoded([request()])
    stored = json.loads(STORED.read_text())["cases"][f"drawn {case}"]["picture"]
    shown = np.clip(found / 2 + 0.5, 0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(shown, np.reshape(stored, (16, 16, 3)), atol=1e-4)
    np.testing.assert_array_equal(to_pixels(found), np.round(shown * 255).astype(np.uint8))


def merged(pipe, out, weights):
    """A pipeline whose U-Net has the products of LoRAs of scale 1 added, each times its weight."""
    tensors = load_file(pipe / "unet" / "diffusion_pytorch_model.safetensors")
    for path, weight in weights.items():
        delta = read_delta(path)
        for name in [n for n in delta.tensors if n.endswith("lora_a")]:
            layer = name.rpartition(".")[0]
            b = delta.tensors[f"{layer}.mindpet_delta_lora_b"]
            tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] + weight * (b @ delta.tensors[name])
    write_pipeline(out, DRAWN["ddim"][1])
    write_part(out / "unet", unet.FAMILY, UNET, {n: t.astype(np.float32) for n, t in tensors.items()})
    return out


def test_styles_are_switched_and_blended_in_one_graph(tmp_path, monkeypatch):
    """Given two LoRAs of different ranks: off is the base's picture, both at once draw what merged weights draw, in one compiled graph; a
    picture does not depend on the batch that it is drawn in."""
    pipe = write_pipeline(tmp_path / "pipe", DRAWN["ddim"][1])
    a, b = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    write_style(a, rank=2, alpha=2)
    write_style(b, -0.7, rank=3, alpha=3, target=("attn2",))
    uses = ("off", "a", "a:0.5", "a:0.8,b:-0.4", "b")
    with compilations() as count:
        made = generator(pipe, "ddim", {"a": str(a), "b": str(b)}, uses, batch=2)
        found = dict(zip(uses, made.decoded([request(use) for use in uses]), strict=True))
        assert count.graphs == 1
    stored = np.reshape(json.loads(STORED.read_text())["cases"]["drawn ddim"]["picture"], (16, 16, 3))
    np.testing.assert_allclose(np.clip(found["off"] / 2 + 0.5, 0, 1).transpose(1, 2, 0), stored, atol=1e-4)
    monkeypatch.setattr(image_model, "setup", partial(setup, pynative=True))
    (wanted,) = generator(merged(pipe, tmp_path / "merged", {a: 0.8, b: -0.4}), "ddim").decoded([request()])
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(found["a:0.8,b:-0.4"], wanted, atol=1e-4)
    flat = [each.ravel() for each in found.values()]
    assert min(np.abs(x - y).max() for i, x in enumerate(flat) for y in flat[:i]) > 0.01
