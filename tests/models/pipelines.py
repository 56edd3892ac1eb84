"""Folders of Stable-Diffusion nets for tests."""

import json

import numpy as np
from mindspore import nn
from PIL import Image
from safetensors.numpy import save_file

from petrun.checkpoint.delta import BaseIdentity, Manifest, save_delta
from petrun.delta import find_method
from petrun.models import autoencoder_kl, clip_text, unet
from tests.models.diffusers_cases import AUTOENCODER, SCHEDULER, TEXT, UNET, lora_values, values, vocabulary


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


CHINESE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u7ea2", "\u84dd", "\u5706", "\u65b9", "\u4e00", "\u4e2a")


def write_tokenizer(folder, chinese=False):
    """CLIP's, of whole words without merges of their own, or Wukong-Huahua's, of Chinese characters."""
    folder.mkdir(parents=True)
    if chinese:
        (folder / "vocab.txt").write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        return
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 9})
    )


def write_pipeline(folder, scheduler=SCHEDULER, chinese=False):
    """`folder` as diffusers saves a pipeline."""
    for name, family, config in (
        ("unet", unet.FAMILY, UNET),
        ("vae", autoencoder_kl.FAMILY, AUTOENCODER),
        ("text_encoder", clip_text.FAMILY, TEXT),
    ):
        write_part(folder / name, family, config)
    write_tokenizer(folder / "tokenizer", chinese)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def write_style(path, size=1.0, algo="lora", **settings):
    """A delta on the U-Net whose numbers follow from its tensors' names, `size` times."""
    method, parsed = find_method(algo), unet.parse(UNET)
    config, net = method.config(**settings), unet.build(parsed)
    names = method.attach(net, config, unet.sites(parsed), 0)
    shapes = {p.name: tuple(p.shape) for p in net.get_parameters() if p.name in names}
    manifest = Manifest(algo=algo, config=config.model_dump(mode="json"), family="unet", base=BaseIdentity(digest=""))
    save_delta(path, {name: lora_values(name, shape) * np.float32(size) for name, shape in shapes.items()}, manifest)


def write_pictures(folder, captions, side=20):
    """A folder of pictures of noise, `0.png` and so on, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 256, (side, side + 4 * i, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption, encoding="utf-8")
    return folder


class Decode(nn.Cell):
    """`decode` of an autoencoder as a cell of its own."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, latents):
        return self.net.decode(latents)
