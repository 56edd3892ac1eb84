"""Folders of pipelines: their sizes, digests of their nets, and parts that are refused by file."""

import json
import re

import pytest

from petrun.errors import ModelError
from petrun.models import autoencoder_kl
from petrun.models.pipeline import is_pipeline, load_part, part_digest, read_pipeline, require_no_pipeline
from tests.models.pipelines import write_pipeline


@pytest.fixture
def pipe(tmp_path):
    return write_pipeline(tmp_path / "pipe")


def test_sizes_and_digests(pipe):
    pipeline = read_pipeline(pipe)
    # The U-Net halves latents once, which are half as wide as pictures.
    assert (pipeline.side, pipeline.side_multiple, pipeline.text.positions) == (16, 4, 9)
    assert pipeline.schedule.steps == 1000 and pipeline.unet.hidden == pipeline.text.hidden == 12
    family = autoencoder_kl.FAMILY
    assert part_digest(pipe / "vae", family) == load_part(pipe / "vae", family).base_digest
    assert is_pipeline(pipe) and not is_pipeline(pipe / "unet") and not is_pipeline(None)
    with pytest.raises(ModelError, match="is a pipeline that makes pictures"):
        require_no_pipeline(pipe)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"in_channels": 9}, "unet reads channels: 9, and vae latent_channels has 4"),
        ("unet", {"cross_attention_dim": 16}, "unet has cross_attention_dim 16, and text_encoder hidden_size has 12"),
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "unet/config.json: _class_name = 'FluxTransformer2DModel' is not supported"),
        ("unet", {"act_fn": "mish"}, 'unet/config.json: act_fn = "mish" is not supported'),
        ("vae", {"_class_name": "AutoencoderTiny"}, "vae/config.json: _class_name = 'AutoencoderTiny' is not supported"),
        ("text_encoder", {"model_type": "t5"}, "text_encoder/config.json: model_type = 't5' is not supported; supported: clip_text_model"),
    ],
)  # fmt: skip
def test_refused_parts(pipe, part, change, message):
    path = pipe / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=re.escape(message)):
        read_pipeline(pipe)


def test_a_missing_part_is_named(pipe):
    (pipe / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"vae/config.json: no such file"):
        read_pipeline(pipe)
