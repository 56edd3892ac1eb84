"""The U-Net against diffusers' numbers (diffusers_cases.py), the size of Stable Diffusion 1.x, and folders that are refused."""

import json
from math import prod

import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import ModelError, WeightsError
from petrun.graph.surgery import resolve_targets
from petrun.models import unet
from petrun.models.pipeline import load_part
from tests.models.diffusers_cases import STORED, UNET, UNETS, unet_inputs
from tests.models.pipelines import tensors, write_part

FOUND = json.loads(STORED.read_text())["cases"]
SD1 = {
    **UNET, "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "layers_per_block": 2,
    "norm_num_groups": 32, "sample_size": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
"""unet/config.json of Stable Diffusion 1.x."""


def forward(net, name):
    return net(*map(Tensor, unet_inputs(UNETS[name]))).asnumpy()


@pytest.mark.parametrize("name", UNETS)
def test_equals_diffusers(tmp_path, pynative, name):
    model = load_part(write_part(tmp_path, unet.FAMILY, UNETS[name]), unet.FAMILY)
    got = forward(model.net, name)
    assert got.dtype == np.float32 and got.shape == (2, 4, 8, 8)
    np.testing.assert_allclose(got.ravel(), FOUND[name]["noise"], atol=1e-4)


def test_equals_diffusers_compiled(tmp_path):
    model = load_part(write_part(tmp_path, unet.FAMILY, UNET), unet.FAMILY)
    np.testing.assert_allclose(forward(model.net, "sd1").ravel(), FOUND["sd1"]["noise"], atol=1e-4)


def test_the_forms_of_gelu_differ():
    """Given the reference, the tanh form is told from the exact one."""
    assert np.abs(np.subtract(FOUND["sd1"]["noise"], FOUND["tanh"]["noise"])).max() > 2e-4


def test_stable_diffusion_1_has_the_published_size():
    """Given SD 1.x: 859,520,964 parameters, and a LoRA of rank 4 on q, k, v and out has 797,184 on 128 layers."""
    config = unet.parse(SD1)
    net = unet.build(config)
    assert sum(prod(p.shape) for p in net.get_parameters()) == 859_520_964
    assert config.layers == 16
    sites = unet.sites(config)
    layers = {path: cell for path, cell in net.cells_and_names() if path in resolve_targets(net, sites, None, ())}
    assert len(layers) == 128
    assert sum(4 * (cell.in_channels + cell.out_channels) for cell in layers.values()) == 797_184


def test_roles_name_layers():
    config = unet.parse(UNET)
    net, sites = unet.build(config), unet.sites(config)
    first = "down_blocks.0.attentions.0.transformer_blocks.0"
    found = {role: resolve_targets(net, sites, (role,), ()) for role in sites.linears}
    assert len(found["q"]) == 2 * config.layers == 8
    assert {f"{first}.attn1.to_q", f"{first}.attn1.to_out.0"} < set(found["attn1"])
    assert not set(found["attn1"]) & set(found["attn2"])
    assert {f"{first}.ff.net.0.proj", f"{first}.ff.net.2"} < set(found["ff"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "mish"}, 'act_fn = "mish" is not supported for unet; supported: "silu", "swish"'),
        ({"mid_block_type": None}, "mid_block_type = null is not supported"),
        ({"norm_num_groups": None}, "norm_num_groups = null is not supported"),
        ({"addition_embed_type": "text_time"}, 'addition_embed_type = "text_time" is not supported'),
        ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, 'down_block_types = "AttnDownBlock2D" is not supported'),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types = .*: must be a list of 2 blocks"),
        ({"block_out_channels": [8, 18]}, r"block_out_channels = \[8, 18\]: must be a list of multiples of norm_num_groups = 4"),
        ({"attention_head_dim": 3}, r"attention_head_dim = \[3, 3\]: must be numbers of heads"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block = \[1, 2\]: must be an integer"),
        ({"feed_forward_type": "swiglu"}, 'feed_forward_type = "swiglu" is not supported'),
        ({"brightness": 2}, "brightness is no known field of a unet"),
        ({"_class_name": "UNet3DConditionModel"}, "_class_name = 'UNet3DConditionModel' is not supported; supported: UNet2DConditionModel"),
    ],
)  # fmt: skip
def test_refused_configs(tmp_path, change, message):
    folder = write_part(tmp_path, unet.FAMILY, UNET)
    (folder / "config.json").write_text(json.dumps({**UNET, **change}))
    with pytest.raises(ModelError, match=message):
        load_part(folder, unet.FAMILY)


def test_files_that_do_not_fit_name_the_tensor(tmp_path):
    held = tensors(unet.FAMILY, UNET)
    held["conv_inn.weight"] = held.pop("conv_in.weight")
    with pytest.raises(WeightsError, match=r"conv_in.weight \(8, 4, 3, 3\) is missing"):
        load_part(write_part(tmp_path, unet.FAMILY, UNET, held), unet.FAMILY)
