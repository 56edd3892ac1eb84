"""Small T5 models whose numbers follow from the tensors' names, and what transformers and peft compute with them.

`python -m tests.models.t5_cases`, where torch, transformers and peft are installed, computes everything and stores it in t5_cases.json:
logits, loss and greedy text of the base, logits of a LoRA, its gradients, five AdamW steps, and a merged matrix of each stack; logits with
peft's virtual tokens.
"""

import json
from pathlib import Path

import numpy as np

from tests.interop.peft.peft_adapters import numbers
from tests.models.transformers_cases import values

STORED = Path(__file__).with_name("t5_cases.json")
VOCAB, NEW = 24, 6
SOURCES, TARGETS = (13, 6, 2), (5, 7, 3)
"""Tokens of each row; the longest source has distances that share a bucket."""
T5 = {
    "model_type": "t5", "vocab_size": VOCAB, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "dropout_rate": 0.0, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0, "is_encoder_decoder": True,
}  # fmt: skip
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES = {
    "t5": T5,
    "t5-v1.1": {**GATED, "d_kv": 6, "num_decoder_layers": 3},
    "mt5": {**GATED, "model_type": "mt5", "decoder_start_token_id": 2},
    # As transformers 5 writes the config of a v1.1: it says that the head is tied, and the files hold one of its own.
    "t5-rewritten": {**GATED, "tie_word_embeddings": True, "scale_decoder_outputs": False, "feed_forward_proj": "gated-silu"},
}  # fmt: skip
WITH_HEAD = ("t5-v1.1", "mt5", "t5-rewritten")
LORA = {"r": 2, "lora_alpha": 6, "target_modules": ["q", "v", "wo"], "lora_dropout": 0.0}
STEPS, RATE, DECAY = 5, 0.05, 0.1
VIRTUAL, TABLE = 3, "prompt_embeddings"
MERGED = (
    "encoder.block.1.layer.0.SelfAttention.q.weight",
    "decoder.block.0.layer.1.EncDecAttention.v.weight",
    "decoder.block.1.layer.2.DenseReluDense.wo.weight",
)


def batch(left=False):
    """ids and segments (1 = token) of the sources, (3, 13); labels (3, 7), -100 behind each target. `left`: the sources' padding."""
    rng = np.random.default_rng(11)
    ids, segments = np.zeros((2, len(SOURCES), max(SOURCES)), np.int32)
    labels = np.full((len(TARGETS), max(TARGETS)), -100, np.int32)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        own = slice(max(SOURCES) - source, None) if left else slice(source)
        ids[row, own], segments[row, own] = rng.integers(3, VOCAB, source), 1
        labels[row, :target] = [*rng.integers(3, VOCAB, target - 1), 1]
    return ids, segments, labels


def decoder_inputs(labels, start):
    """The targets behind their start token, without their last token; padding is 0."""
    shifted = np.concatenate([np.full((len(labels), 1), start, np.int32), labels[:, :-1]], 1)
    return np.where(shifted == -100, 0, shifted)


def of_targets(found):
    """Of (B, T, V) what stands at the targets' tokens, (sum of targets, V)."""
    return np.concatenate([row[:target] for row, target in zip(found, TARGETS, strict=True)])


def lora_values(name, shape):
    """A tensor of the adapter, by peft's name."""
    return numbers(name, shape) * np.float32(0.5)


def _model(config):
    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForSeq2SeqLM.from_config(kind, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
    return model


def base_numbers(name):
    """What the base computes, with its sources padded on either side."""
    import torch

    model = _model(CASES[name])
    if name in WITH_HEAD:
        head = values("lm_head.weight", tuple(model.shared.weight.shape))
        model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(head))
    found = []
    with torch.no_grad():
        for left in (False, True):
            ids, segments, labels = (torch.from_numpy(a).long() for a in batch(left))
            out = model(input_ids=ids, attention_mask=segments, labels=labels)
            found.append(of_targets(out.logits.numpy()))
        np.testing.assert_allclose(*found, atol=1e-4)
        # transformers opens a cache for as many decoder layers as the encoder has.
        cached = "num_decoder_layers" not in CASES[name]
        greedy = {
            "max_new_tokens": NEW,
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
            "use_cache": cached,
        }
        text = model.generate(ids, attention_mask=segments, **greedy)
    found = {"logits": _rounded(found[0]), "loss": float(out.loss), "greedy": text[:, 1:].tolist()}
    return model, found


def lora_numbers(model):
    """What the base with a LoRA computes, learns, and becomes when it is merged."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", **LORA))
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    ids, segments, labels = (torch.from_numpy(a).long() for a in batch())
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(torch.from_numpy(lora_values(name, tuple(tensor.shape))))
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY)
    losses, found = [], {}
    for step in range(STEPS):
        out = model(input_ids=ids, attention_mask=segments, labels=labels)
        optimizer.zero_grad()
        out.loss.backward()
        losses.append(float(out.loss))
        if step == 0:
            found["logits"] = _rounded(of_targets(out.logits.detach().numpy()))
            found["gradients"] = {n: _rounded(p.grad.numpy(), 7) for n, p in trained.items()}
            merged = _merged(model)
        optimizer.step()
    found |= {"losses": losses, "trained": {n: _rounded(p.detach().numpy(), 6) for n, p in trained.items()}}
    return {**found, "merged": merged}


def virtual_numbers(name, kind):
    """Logits of the base with VIRTUAL tokens of peft's `kind`."""
    import peft
    import torch

    config = {"PROMPT_TUNING": peft.PromptTuningConfig, "PREFIX_TUNING": peft.PrefixTuningConfig}[kind]
    model, _ = base_numbers(name)
    model = peft.get_peft_model(model, config(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=VIRTUAL)).eval()
    ids, segments, labels = (torch.from_numpy(a).long() for a in batch())
    with torch.no_grad():
        (table,) = [p for p in model.parameters() if p.requires_grad]
        table.copy_(torch.from_numpy(lora_values(TABLE, tuple(table.shape))))
        out = model(input_ids=ids, attention_mask=segments, labels=labels)
    return {"shape": list(table.shape), "logits": _rounded(of_targets(out.logits.numpy()))}


def _merged(model):
    import copy

    state = copy.deepcopy(model).merge_and_unload().state_dict()
    return {name: _rounded(state[name].numpy(), 6) for name in MERGED}


def _rounded(table, digits=5):
    return [[round(float(v), digits) for v in row] for row in table]


def main():
    """Compute and store every case."""
    import peft
    import transformers

    stored = {}
    for name in CASES:
        model, stored[name] = base_numbers(name)
        if name != "t5-rewritten":
            stored[name]["lora"] = lora_numbers(model)
        if name == "t5":
            stored[name]["virtual"] = {kind: virtual_numbers(name, kind) for kind in ("PROMPT_TUNING", "PREFIX_TUNING")}
    made = f"transformers {transformers.__version__}, peft {peft.__version__}"
    text = json.dumps({"computed_with": made, "cases": stored}, separators=(",", ":")).replace('],"', '],\n"')
    STORED.write_text(text + "\n")
    print(len(stored), "cases")


if __name__ == "__main__":
    main()
