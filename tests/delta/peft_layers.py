"""Layers of peft's algorithms, as cases: what peft computes with one linear layer, which test_peft_layers.py holds ours against.

Every value of a layer follows from its name, so only results are stored. `python -m tests.delta.peft_layers`, where torch and peft are
installed, computes them anew.
"""

import json
import zlib
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_name("peft_layers.json")
IN, OUT, ROWS, STEPS = 12, 8, 4, 5
LR, DECAY = 0.05, 0.01
# Label -> (algorithm, settings, peft's class of configs, its fields, {name of a matrix in peft: last part of its name here}).
CASES = {
    "loha": (
        "loha",
        {"rank": 2, "alpha": 6.0},
        "LoHaConfig",
        {"r": 2, "alpha": 6},
        {f"hada_w{i}_{part}": f"mindpet_delta_loha_w{i}_{part}" for i in (1, 2) for part in "ab"},
    ),
    "lokr": (
        "lokr",
        {"rank": 1, "alpha": 3.0},
        "LoKrConfig",
        {"r": 1, "alpha": 3},
        {part: f"mindpet_delta_{part}" for part in ("lokr_w1", "lokr_w2_a", "lokr_w2_b")},
    ),
    "lokr-both": (
        "lokr",
        {"rank": 1, "alpha": 3.0, "decompose_both": True, "decompose_factor": 4},
        "LoKrConfig",
        {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4},
        {part: f"mindpet_delta_{part}" for part in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")},
    ),
    "lokr-whole": (
        "lokr",
        {"rank": 4, "alpha": 8.0},
        "LoKrConfig",
        {"r": 4, "alpha": 8},
        {part: f"mindpet_delta_{part}" for part in ("lokr_w1", "lokr_w2")},
    ),
    "vera": (
        "vera",
        {"rank": 3},
        "VeraConfig",
        {"r": 3},
        {
            "vera_A": "mindpet_delta_vera_a",
            "vera_B": "mindpet_delta_vera_b",
            "vera_lambda_b": "mindpet_delta_vera_lambda_b",
            "vera_lambda_d": "mindpet_delta_vera_lambda_d",
        },
    ),
    **{
        f"oft-{terms}": (
            "oft",
            {"block_size": 4, "terms": terms},
            "OFTConfig",
            {"oft_block_size": 4, "num_cayley_neumann_terms": terms},
            {"oft_R": "mindpet_delta_oft_r"},
        )
        for terms in (2, 3, 5, 6)
    },
    "miss": ("miss", {"rank": 4}, "MissConfig", {"r": 4}, {"miss_block": "mindpet_delta_miss_block"}),
    "miss-filled": ("miss", {"rank": 5}, "MissConfig", {"r": 5}, {"miss_block": "mindpet_delta_miss_block"}),
}


def numbers(key, shape):
    """float32 between -1/2 and 1/2 that depend on the key alone."""
    count = int(np.prod(shape))
    mixed = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))
    return (((mixed >> np.uint64(7)) % np.uint64(65)).astype(np.float32) / 64 - 0.5).reshape(shape)


def batch():
    """(x, wanted y): the loss is the mean of (y - wanted)^2."""
    return numbers("x", (ROWS, IN)), numbers("wanted", (ROWS, OUT))


def in_peft(label):
    """Output, gradients, values after the steps and merged weight, by peft."""
    import peft
    import torch

    _, _, kind, settings, parts = CASES[label]
    model = torch.nn.Sequential()
    model.add_module("first", torch.nn.Linear(IN, OUT))
    with torch.no_grad():
        model.first.weight.copy_(torch.from_numpy(numbers("weight", (OUT, IN))))
        model.first.bias.copy_(torch.from_numpy(numbers("bias", (OUT,))))
    model = peft.get_peft_model(model, getattr(peft, kind)(target_modules=["first"], **settings))
    found = {}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        part = next((part for part in parts if f".{part}." in name), None)
        if part is not None and value.is_floating_point():
            value.data.copy_(torch.from_numpy(numbers(part, tuple(value.shape))))
            found[part] = value
    assert set(found) == set(parts), (set(found), set(parts))
    trained = {part: value for part, value in found.items() if value.requires_grad}
    x, wanted = (torch.from_numpy(values) for values in batch())
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, weight_decay=DECAY)
    results = {"output": model(x)}
    for step in range(STEPS):
        optimizer.zero_grad()
        torch.square(model(x) - wanted).mean().backward()
        if step == 0:
            results |= {f"gradient {part}": value.grad.clone() for part, value in trained.items()}
        optimizer.step()
    results |= {f"trained {part}": value for part, value in trained.items()}
    merged = model.merge_and_unload().first
    results |= {"merged": merged.weight}
    return {key: [float(f"{v:.8g}") for v in value.detach().reshape(-1).tolist()] for key, value in results.items()}


def main():
    import peft

    stored = {label: in_peft(label) for label in CASES}
    text = json.dumps({"computed_with": f"peft {peft.__version__}", **stored}, separators=(",", ":"))
    STORED.write_text(text.replace('],"', '],\n"') + "\n")
    print(f"{len(stored)} layers")


if __name__ == "__main__":
    main()
