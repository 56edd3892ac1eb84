"""Small Stable-Diffusion nets whose numbers follow from the tensors' names, and what diffusers and transformers compute with them.

`python -m tests.models.diffusers_cases`, where torch, transformers and diffusers are installed, computes everything and stores it in
diffusers_cases.json: what the nets return, and for a LoRA on the U-Net, with petrun's own random numbers, gradients, losses and tensors of
five AdamW steps, and a merged matrix; and pictures that its pipeline draws. With a NAME behind it, it computes the cases whose names begin
so, and keeps the others.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.kernels.counter_hash import reference_normal, reference_uniform
from tests.models.transformers_cases import values as plain_values

STORED = Path(__file__).with_name("diffusers_cases.json")
UNET = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 2,
    "block_out_channels": [8, 16], "center_input_sample": False, "cross_attention_dim": 12,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 4, "out_channels": 4,
    "sample_size": 8, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
UNETS = {
    "sd1": UNET,
    "tanh": {**UNET, "feed_forward_type": "geglu-approximate"},
    # What Stable Diffusion 2 has otherwise, and three levels.
    "sd2": {
        **UNET, "attention_head_dim": [1, 2, 3], "block_out_channels": [8, 16, 24], "use_linear_projection": True, "flip_sin_to_cos": False,
        "freq_shift": 1, "layers_per_block": 2, "transformer_layers_per_block": [1, 2, 1], "upcast_attention": True,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
}  # fmt: skip
AUTOENCODER = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu", "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 1,
    "norm_num_groups": 4, "out_channels": 3, "sample_size": 16, "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
}  # fmt: skip
AUTOENCODERS = {"kl": AUTOENCODER, "no-attention": {**AUTOENCODER, "mid_block_add_attention": False}}
TEXT = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 22, "eos_token_id": 23, "hidden_act": "quick_gelu",
    "hidden_size": 12, "intermediate_size": 20, "layer_norm_eps": 1e-05, "max_position_embeddings": 9, "model_type": "clip_text_model",
    "num_attention_heads": 3, "num_hidden_layers": 2, "pad_token_id": 23, "vocab_size": 24,
}  # fmt: skip
TEXTS = {"quick": TEXT, "exact": {**TEXT, "hidden_act": "gelu"}}


SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
SCHEDULERS = {
    "sd1": SCHEDULER,
    "velocity": {**SCHEDULER, "prediction_type": "v_prediction"},
    "linear": {"num_train_timesteps": 50},
    "cosine": {**SCHEDULER, "beta_schedule": "squaredcos_cap_v2"},
}
SCALING, SEED, ROWS = 0.18215, 3, 3
LORA = {"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"], "lora_dropout": 0.0}
STEPS, RATE, DECAY = 5, 0.02, 0.1
TRAININGS = {
    "plain": ("sd1", {}),
    "all": ("velocity", {"min_snr": 5.0, "offset_noise": 0.1, "flip": True}),
}
"""Name -> (scheduler, settings of the loss)."""
SAMPLED = {
    "ddim": ("ddim", {**SCHEDULER, "clip_sample": False}, 10),
    "ddim-clipped": ("ddim", {**SCHEDULER, "prediction_type": "v_prediction", "set_alpha_to_one": True, "timestep_spacing": "trailing"}, 8),
    "euler": ("euler", SCHEDULER, 7),
    "euler-leading": ("euler", {**SCHEDULER, "prediction_type": "v_prediction", "timestep_spacing": "leading"}, 6),
    "dpm": ("dpm++", SCHEDULER, 9),
    "dpm-long": ("dpm++", {**SCHEDULER, "prediction_type": "v_prediction", "timestep_spacing": "leading"}, 20),
    "dpm-trailing": ("dpm++", {**SCHEDULER, "timestep_spacing": "trailing"}, 5),
}  # fmt: skip
"""Name -> (sampler, scheduler_config.json, steps)."""
WORDS = ("a", "red", "blue", "circle", "square", "green")
DRAWN = {
    "ddim": ("ddim", {**SCHEDULER, "steps_offset": 0, "clip_sample": True}, 5, 3.0, "blue"),
    "unguided": ("euler", {**SCHEDULER, "prediction_type": "v_prediction"}, 3, 1.0, ""),
}
"""Name -> (sampler, scheduler_config.json, steps, guidance, negative prompt) of drawings of PROMPT from the seed DRAWN_SEED."""
PROMPT, DRAWN_SEED = "a red", 5
MERGED = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"


def training_rows():
    """latents (3, 4, 4, 8, 8), mean and deviation of a picture and of its mirror image; states (3, 7, S): float32."""
    latents = noise("moments", (ROWS, 4, 4, 8, 8))
    latents[:, 1::2] = np.abs(latents[:, 1::2]) * np.float32(0.1)
    return latents * np.float32(4), noise("captions", (ROWS, 7, UNET["cross_attention_dim"]))


def lora_values(name, shape):
    """A tensor of the LoRA, by peft's name."""
    return plain_values(name, shape) * np.float32(0.5)


def values(name, shape):
    """The tensor of a name: norms near 1, matrices and kernels scaled so that what they return is about as large as what they read."""
    drawn = plain_values(name, shape)
    return drawn if len(shape) < 2 else drawn * np.float32(3.0 / np.sqrt(np.prod(shape[1:])))


def noise(name, shape):
    """float32 between -1.5 and 1.5 that depend on the name alone."""
    return plain_values(name, shape) * np.float32(3)


def unet_inputs(config):
    """latents (2, C, 8, 8) float32, timesteps (2,) int32, states (2, 7, S) float32."""
    latents = noise("latents", (2, config["in_channels"], 8, 8))
    return latents, np.array([3, 871], np.int32), noise("states", (2, 7, config["cross_attention_dim"]))


def pictures():
    """(2, 3, 16, 16) float32 in [-1, 1]."""
    return plain_values("pictures", (2, 3, 16, 16)) * np.float32(2)


def text_ids():
    """(2, 9) int32."""
    return np.random.default_rng(5).integers(0, TEXT["vocab_size"], (2, 9)).astype(np.int32)


def filled(model):
    """The model of torch with every tensor as `values` has it."""
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
    return model.eval()


def made_unet(config):
    """diffusers' U-Net of a config."""
    import torch
    from diffusers import UNet2DConditionModel

    own = {k: v for k, v in config.items() if not k.startswith("_") and k != "feed_forward_type"}
    model = filled(UNet2DConditionModel(**own))
    if config.get("feed_forward_type") == "geglu-approximate":
        for module in model.modules():
            if type(module).__name__ == "GEGLU":
                module.gelu = lambda gate: torch.nn.functional.gelu(gate, approximate="tanh")
    return model


def drawn(step, settings):
    """(latents before scaling, noise, timesteps) that petrun draws at a step, by the formulas of petrun/train/diffusion.py."""
    latents, _ = training_rows()
    if settings.get("flip"):
        mirrored = reference_uniform(SEED, "diffusion.flip", step, (ROWS,)) < 0.5
        latents = np.where(mirrored[:, None, None, None, None], latents[:, 2:], latents[:, :2])
    shape = latents[:, 0].shape
    z = latents[:, 0] + latents[:, 1] * reference_normal(SEED, "diffusion.latent", step, shape)
    e = reference_normal(SEED, "diffusion.noise", step, shape)
    if settings.get("offset_noise"):
        e = e + settings["offset_noise"] * reference_normal(SEED, "diffusion.offset", step, shape[:2])[:, :, None, None]
    steps = (reference_uniform(SEED, "diffusion.step", step, (ROWS,)) * 1000).astype(np.int64)
    return z.astype(np.float32), e.astype(np.float32), steps


def diffusion_loss(model, scheduler, step, settings):
    """The loss of diffusers' train_text_to_image_lora.py."""
    import torch
    from diffusers.training_utils import compute_snr

    z, e, steps = map(torch.from_numpy, drawn(step, settings))
    z, states = z * SCALING, torch.from_numpy(training_rows()[1])
    predicted = model(scheduler.add_noise(z, e, steps), steps, states).sample
    velocity = scheduler.config.prediction_type == "v_prediction"
    errors = (predicted - (scheduler.get_velocity(z, e, steps) if velocity else e)).square().mean((1, 2, 3))
    if settings.get("min_snr"):
        ratio = compute_snr(scheduler, steps)
        errors = errors * ratio.clamp(max=settings["min_snr"]) / (ratio + 1 if velocity else ratio)
    return errors.mean()


def lora_numbers(kind, settings):
    """What a LoRA on the U-Net learns in five steps, and becomes when it is merged."""
    import torch
    from diffusers import DDPMScheduler
    from peft import LoraConfig, get_peft_model

    own = {
        k: v for k, v in SCHEDULERS[kind].items() if k in ("beta_start", "beta_end", "beta_schedule", "prediction_type")
    }
    scheduler = DDPMScheduler(**own)
    model = get_peft_model(made_unet(UNET), LoraConfig(**LORA))
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(torch.from_numpy(lora_values(name, tuple(tensor.shape))))
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY)
    found = {"losses": []}
    for step in range(STEPS):
        loss = diffusion_loss(model, scheduler, step, settings)
        optimizer.zero_grad()
        loss.backward()
        found["losses"].append(float(loss))
        if step == 0:
            found["gradients"] = {n: rounded(p.grad, 7) for n, p in trained.items()}
        optimizer.step()
    found["trained"] = {n: rounded(p.detach(), 6) for n, p in trained.items()}
    found["merged"] = rounded(model.merge_and_unload().state_dict()[MERGED])
    return found


def first_noise():
    """(2, 4, 3, 3) float32."""
    return reference_normal(1, "sampled", 0, (2, 4, 3, 3)).astype(np.float32)


def stand_in(z, time):
    """What stands for a U-Net, in numpy or torch: a smooth function of latents and step."""
    return z * (0.4 + time / 2000) + 0.3 * (z * z * z) / (1 + z * z)


def scheduler_of(sampler, config):
    """diffusers' scheduler for a sampler."""
    import diffusers

    kinds = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler"}
    return getattr(diffusers, kinds[sampler]).from_config(config)


def trajectory(sampler, config, steps):
    """Latents after each step of diffusers' scheduler, scaled as the U-Net reads them, and the steps themselves."""
    import torch

    scheduler = scheduler_of(sampler, config)
    scheduler.set_timesteps(steps)
    z, found = torch.from_numpy(first_noise()) * scheduler.init_noise_sigma, []
    for i, time in enumerate(scheduler.timesteps):
        read = scheduler.scale_model_input(z, time)
        z = scheduler.step(stand_in(read, float(time)), time, z).prev_sample
        shown = z / (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if sampler == "euler" else z
        found.append(rounded(shown))
    return {"times": [float(time) for time in scheduler.timesteps], "latents": found}


def vocabulary():
    """CLIP's tokens of WORDS, without merges of their own: token -> id."""
    letters = sorted({letter for word in WORDS for letter in word[:-1]} | {f"{word[-1]}</w>" for word in WORDS})
    vocab = {token: i for i, token in enumerate(letters)}
    assert len(vocab) <= 22
    return vocab | {"<|startoftext|>": 22, "<|endoftext|>": 23}


def letters_of(text):
    """(1, 9) int32: the tokens of a text, letter by letter, padded as CLIP's tokenizer does."""
    found = [vocabulary()[t] for word in text.split() for t in (*word[:-1], f"{word[-1]}</w>")]
    assert len(found) <= 7
    return np.array([[22, *found, *[23] * (8 - len(found))]], np.int32)


def drawn_noise(seed, shape):
    """Box and Muller's normal numbers of Philox's bits."""
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64)).random_raw(2 * int(np.prod(shape)))
    u, v = (((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53).reshape(2, *shape)
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32)


def made_text_encoder(config):
    """transformers' text encoder of a config."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**config))
    with torch.no_grad():
        for own, tensor in model.named_parameters():
            full = own if own.startswith("text_model.") else f"text_model.{own}"
            tensor.copy_(torch.from_numpy(values(full, tuple(tensor.shape))))
    return model.eval()


def made_autoencoder(config):
    """diffusers' autoencoder of a config."""
    from diffusers import AutoencoderKL

    return filled(AutoencoderKL(**{k: v for k, v in config.items() if not k.startswith("_")}))


def drawn_picture(sampler, config, steps, guidance, negative):
    """What diffusers' pipeline draws, (16, 16, 3), between 0 and 1."""
    import diffusers
    import torch

    encoder = made_text_encoder(TEXT)
    embeds = [encoder(torch.from_numpy(letters_of(text)).long()).last_hidden_state for text in (PROMPT, negative)]
    pipeline = diffusers.StableDiffusionPipeline(
        vae=made_autoencoder(AUTOENCODER),
        text_encoder=encoder,
        tokenizer=None,
        unet=made_unet(UNET),
        scheduler=scheduler_of(sampler, config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        prompt_embeds=embeds[0],
        negative_prompt_embeds=embeds[1],
        latents=torch.from_numpy(drawn_noise(DRAWN_SEED, (1, 4, 8, 8))),
        height=16,
        width=16,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="np",
    )
    return {"picture": rounded(found.images[0])}


def rounded(array, digits=5):
    return np.round(np.asarray(array, np.float64), digits).ravel().tolist()


def nets():
    """What the nets return."""
    import torch

    found = {}
    with torch.no_grad():
        for name, config in UNETS.items():
            latents, steps, states = map(torch.from_numpy, unet_inputs(config))
            found[name] = {"noise": rounded(made_unet(config)(latents, steps, states).sample)}
        for name, config in AUTOENCODERS.items():
            model = made_autoencoder(config)
            seen = model.encode(torch.from_numpy(pictures())).latent_dist
            found[name] = {"mean": rounded(seen.mean), "deviation": rounded(seen.std)}
            found[name]["decoded"] = rounded(model.decode(seen.mean).sample)
        for name, config in TEXTS.items():
            states = made_text_encoder(config)(torch.from_numpy(text_ids()).long()).last_hidden_state
            found[name] = {"states": rounded(states)}
    return found


def main():
    """Compute and store every case, or those whose names begin as told."""
    import diffusers
    import transformers

    begin = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = {f"lora {name}": (lora_numbers, case) for name, case in TRAININGS.items()}
    cases |= {f"sampled {name}": (trajectory, case) for name, case in SAMPLED.items()}
    cases |= {f"drawn {name}": (drawn_picture, case) for name, case in DRAWN.items()}
    found = json.loads(STORED.read_text())["cases"] if begin else nets()
    found |= {name: compute(*case) for name, (compute, case) in cases.items() if name.startswith(begin)}
    for name, config in () if begin else SCHEDULERS.items():
        own = {k: v for k, v in config.items() if k not in ("_class_name", "skip_prk_steps", "set_alpha_to_one")}
        kept = diffusers.DDPMScheduler(**{k: v for k, v in own.items() if k != "steps_offset"}).alphas_cumprod
        found[f"schedule {name}"] = {"kept": rounded(kept[:: len(kept) // 10], 7)}
    made = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    text = json.dumps({"computed_with": made, "cases": found}, separators=(",", ":")).replace('],"', '],\n"')
    STORED.write_text(text + "\n")
    print(len(found), "cases")


if __name__ == "__main__":
    main()
