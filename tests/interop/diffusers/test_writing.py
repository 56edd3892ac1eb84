"""LoRAs of U-Nets in diffusers' and kohya's files: names, scale, and deltas that have no such form."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from petrun.delta import find_method
from petrun.errors import DeltaError
from petrun.interop.diffusers.writing import write_unet_lora
from petrun.models import unet
from tests.models.diffusers_cases import LORA, STORED, UNET, lora_values

PEFT = {"mindpet_delta_lora_a": "lora_A.weight", "mindpet_delta_lora_b": "lora_B.weight"}
SETTINGS = {"rank": LORA["r"], "alpha": LORA["lora_alpha"]}
TRAINED = list(json.loads(STORED.read_text())["cases"]["lora plain"]["gradients"])
"""peft's names of the LoRA that it puts on diffusers' U-Net."""


def saved(path, family="unet", algo="lora", **settings):
    """A delta on the small U-Net with its own initial values, but B, which is not zero."""
    method = find_method(algo)
    config, parsed = method.config(**{**SETTINGS, **settings}), unet.parse(UNET)
    net = unet.build(parsed)
    names = method.attach(net, config, unet.sites(parsed), 0)
    shapes = {p.name: tuple(p.shape) for p in net.get_parameters() if p.name in names}
    manifest = Manifest(algo=algo, config=config.model_dump(mode="json"), family=family, base=BaseIdentity(digest="x"))
    save_delta(path, {name: lora_values(name, shape) for name, shape in shapes.items()}, manifest)
    return read_delta(path)


def product(tensors, down, up):
    return np.asarray(tensors[up], np.float64) @ np.asarray(tensors[down], np.float64)


def test_diffusers_file_has_pefts_layers_and_the_scale_inside(tmp_path):
    delta = saved(tmp_path / "style.ckpt")
    assert write_unet_lora(delta, tmp_path / "out.safetensors", "diffusers") == len(TRAINED) // 2
    found = load_file(tmp_path / "out.safetensors")
    assert {name.replace("unet.", "base_model.model.", 1) for name in found} == set(TRAINED)
    for path in {name.rpartition(".")[0] for name in delta.tensors}:
        wanted = 3.0 * product(delta.tensors, f"{path}.mindpet_delta_lora_a", f"{path}.mindpet_delta_lora_b")
        got = product(found, f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight")
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_kohya_file_keeps_the_factors_and_says_alpha(tmp_path):
    delta = saved(tmp_path / "style.ckpt", variant="rslora")
    write_unet_lora(delta, tmp_path / "out.safetensors", "kohya")
    found = load_file(tmp_path / "out.safetensors")
    assert len(found) == 3 * len(TRAINED) // 2
    path, name = (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
    )
    np.testing.assert_array_equal(
        found[f"lora_unet_{name}.lora_down.weight"], delta.tensors[f"{path}.mindpet_delta_lora_a"]
    )
    # rsLoRA's scale is alpha / sqrt(rank); a reader divides alpha by the rank.
    assert float(found[f"lora_unet_{name}.alpha"]) / 2 == pytest.approx(6 / np.sqrt(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "bert"}, "is a delta on a bert, and kohya files hold those of U-Nets"),
        ({"variant": "dora"}, "DoRA magnitudes multiply base and update"),
        ({"variant": "pissa"}, r"holds .*mindpet_delta_lora_a0?, which kohya files have no place for"),
    ],
)
def test_what_has_no_such_form(tmp_path, settings, message):
    with pytest.raises(DeltaError, match=message):
        write_unet_lora(saved(tmp_path / "style.ckpt", **settings), tmp_path / "out.safetensors", "kohya")
    assert not (tmp_path / "out.safetensors").exists()
