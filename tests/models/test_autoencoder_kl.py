"""The autoencoder of pictures against diffusers' numbers (diffusers_cases.py), its earlier names, and folders that are refused."""

import json
from math import prod

import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import ModelError
from petrun.models import autoencoder_kl
from petrun.models.pipeline import load_part
from tests.models.diffusers_cases import AUTOENCODER, AUTOENCODERS, STORED, pictures
from tests.models.pipelines import Decode, tensors, write_part

FAMILY = autoencoder_kl.FAMILY
FOUND = json.loads(STORED.read_text())["cases"]


def check(net, name):
    mean, deviation = net(Tensor(pictures()))
    assert mean.shape == (2, 4, 8, 8)
    np.testing.assert_allclose(mean.asnumpy().ravel(), FOUND[name]["mean"], atol=1e-4)
    np.testing.assert_allclose(deviation.asnumpy().ravel(), FOUND[name]["deviation"], atol=1e-4)
    decoded = Decode(net)(mean)
    assert decoded.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(decoded.asnumpy().ravel(), FOUND[name]["decoded"], atol=1e-4)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_equals_diffusers(tmp_path, pynative, name):
    check(load_part(write_part(tmp_path, FAMILY, AUTOENCODERS[name]), FAMILY).net, name)


def test_equals_diffusers_compiled_with_the_names_of_earlier_files(tmp_path):
    """Given a file with query, key, value and proj_attn, as Stable Diffusion 1.x has it, it is the same net with the same digest."""
    held = tensors(FAMILY, AUTOENCODER)
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in held.items():
        layer, _, leaf = name.rpartition(".")
        new = next((new for new in earlier if ".attentions.0." in name and layer.endswith(f".{new}")), None)
        renamed[name if new is None else f"{layer.removesuffix(new)}{earlier[new]}.{leaf}"] = value
    assert len(set(renamed) - set(held)) == 16
    model = load_part(write_part(tmp_path / "earlier", FAMILY, AUTOENCODER, renamed), FAMILY)
    check(model.net, "kl")
    assert model.base_digest == load_part(write_part(tmp_path / "now", FAMILY, AUTOENCODER), FAMILY).base_digest


def test_stable_diffusion_1_has_the_published_size():
    four = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    sd1 = {
        **AUTOENCODER,
        **four,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
    }
    config = autoencoder_kl.parse(sd1)
    assert (config.factor, config.scaling) == (8, 0.18215)
    assert sum(prod(p.shape) for p in autoencoder_kl.build(config).get_parameters()) == 83_653_863


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift_factor": 0.1}, "shift_factor = 0.1 is not supported for autoencoder_kl"),
        ({"use_quant_conv": False}, "use_quant_conv = false is not supported"),
        (
            {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]},
            'down_block_types = "AttnDownEncoderBlock2D" is not',
        ),
        ({"out_channels": 4}, "out_channels = 4: must be in_channels = 3"),
        ({"scaling_factor": 0}, "scaling_factor = 0: must be a number above 0"),
        ({"tiles": 2}, "tiles is no known field of a autoencoder_kl"),
    ],
)
def test_refused_configs(change, message):
    with pytest.raises(ModelError, match=message):
        autoencoder_kl.parse({**AUTOENCODER, **change})
