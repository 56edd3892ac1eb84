"""Bases of two layers and hidden width 16 with their tokenizers, and data that fits them: enough for a whole run in a second."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from petrun.tensors import array_entries, write_safetensors
from tests.models import t5_cases
from tests.models.agreement import CHATGLM
from tests.models.reference import BERT, GPT2, LLAMA, make
from tests.models.transformers_cases import BLOOM, GEMMA2, GLM, MIXTRAL, OPT, PHI3, QWEN3_MOE, ROBERTA

WORDS = "[PAD] [UNK] [CLS] [SEP] a bad film good it is not the this very".split()
SPECIALS = ("<pad>", "<eos>")
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONFIGS = {
    "bert": {**BERT, "vocab_size": len(WORDS), "max_position_embeddings": 24},
    "gpt2": {**GPT2, "vocab_size": 258, "n_positions": 48, "eos_token_id": 1, "pad_token_id": 0},
    "llama": {**LLAMA, "vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "bloom": {**BLOOM, "vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "glm": {**GLM, "model_type": "glm4", "vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "chatglm": {**CHATGLM, "padded_vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "phi3": {
        **PHI3,
        "vocab_size": 258,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 64,
        "eos_token_id": 1,
    },
    "gemma": {**GEMMA2, "vocab_size": 258},
    "mixtral": {**MIXTRAL, "vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "qwen3_moe": {**QWEN3_MOE, "num_hidden_layers": 2, "vocab_size": 258, "eos_token_id": 1, "pad_token_id": 0},
    "roberta": {**ROBERTA, "vocab_size": len(WORDS), "max_position_embeddings": 24, "pad_token_id": 0},
    "t5": {**t5_cases.T5, "vocab_size": 258},
    "opt": {**OPT, "vocab_size": 258, "max_position_embeddings": 48, "eos_token_id": 1, "pad_token_id": 0},
}
for _name in ("bert", "roberta"):
    del CONFIGS[_name]["id2label"]
CLASSIFIERS = ("bert", "roberta")
ENCODER_DECODERS = ("t5",)
REVIEWS = [{"text": f"this film is {word}", "label": label} for word, label in (("good", 1), ("bad", 0)) * 3]
"""Six rows for bert, two classes."""
ORDERS = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in ((1, 2), (2, 2), (3, 4), (5, 1))]
"""Four rows for a decoder."""


def words():
    """One id a word, [CLS] ... [SEP] around a text, as BERT has them."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(WORDS[:4])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def letters():
    """One id a byte, as GPT-2's tokenizer without a merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate((*SPECIALS, *alphabet))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return backend


def ended_letters():
    """The same with <eos> behind every text, as T5 has it."""
    backend = letters()
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    return backend


def write_base(folder, family, **changes):
    """A Hugging Face folder of a tiny model, a classifier without a head. `changes` go into config.json and the weights follow."""
    config = {**CONFIGS[family], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = make(config, classes=0) if family in CLASSIFIERS else make(config)
    write_safetensors(folder / "model.safetensors", array_entries(tensors), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = words() if family in CLASSIFIERS else ended_letters() if family in ENCODER_DECODERS else letters()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "[PAD]"} if family in CLASSIFIERS else {"pad_token": "<pad>", "eos_token": "<eos>"}
    if family == "llama":
        settings["chat_template"] = CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_rows(path, rows):
    """A JSONL file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
