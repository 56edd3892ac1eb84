"""Folders of Stable-Diffusion nets for tests."""

import json

from mindspore import nn
from safetensors.numpy import save_file

from tests.models.diffusers_cases import values


def tensors(family, config):
    """Every tensor of a net, by the name that its files have."""
    parsed = family.parse(config)
    shapes = {p.name: tuple(p.shape) for p in family.build(parsed).get_parameters()}
    return {stored.name: values(stored.name, shapes[ours]) for ours, stored in family.names(parsed).items()}


def write_part(folder, family, config, held=None):
    """`folder` as diffusers saves one net of a pipeline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        held or tensors(family, config),
        folder / ("model.safetensors" if family.name == "clip_text" else "diffusion_pytorch_model.safetensors"),
    )
    return folder


class Decode(nn.Cell):
    """`decode` of an autoencoder as a cell of its own."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, latents):
        return self.net.decode(latents)
