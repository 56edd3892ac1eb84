"""Tokenizer folders of the layouts that real bases have, with vocabularies made by hand, so that ids never change with a trainer."""

import json

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = [
    "the",
    " the",
    " and",
    " test",
    " run",
    ".py",
    " now",
    "\n\n",
    "\n\n\n",
    "é",
    " caf",
    "12",
    "'s",
    "'S",
    " good",
    "日",
    "  ",
]
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

TEXTS = [
    "", " ", "a", "the", " the", "run test.py now", "a\n\nb", "a\n\n\n\nb", "café", "cafe\u0301", "the  two   spaces", " leading",
    "trailing ", "1234567890", "12 the 12", "it's IT'S", "x = [1, 2]; y", "\tthe\ttab", "a\r\nb", "日本語の日", "Ünïcödé GOOD", "🙂👍🏽 e",
    "<think>yes</think>", "a <think> b", "<tool>the<tool>", "go<|im_end|>\nnext", "<|im_start|>user\nthe<|im_end|>", "<|endoftext|>",
    "the</s>the", "<s>the and", "</s> the", "<mask> the <mask>", "[MASK] the [SEP] good", "Good the [NEW]the", "the goodness", "<image>the",
    "UPPER lower", "a,b.c!d?", "the\u00a0and", "https://a.b/c?d=1",
]  # fmt: skip
assert len(TEXTS) == 40


def byte_level_parts(first=()):
    """(vocabulary, merges): `first`, all bytes, then what makes each of WORDS one token, from left to right."""
    letters = Tokenizer(models.BPE({}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = dict.fromkeys([*first, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = []
    for word in WORDS:
        [(spelt, _)] = letters.pre_tokenizer.pre_tokenize_str(word)
        _chain(list(spelt), vocab, merges)
    return {token: i for i, token in enumerate(vocab)}, merges


def spiece_parts():
    """As Llama's: <unk>, <s>, </s>, byte pieces, letters with the space mark, and words."""
    letters = sorted(
        {c for text in ["▁", *TEXTS[:20]] for c in text.replace(" ", "▁") if c.isascii() or c == "▁"}
        - {"\n", "\r", "\t"}
    )
    vocab = dict.fromkeys(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters])
    merges = []
    for word in WORDS:
        spelt = word.replace(" ", "▁")
        if set(spelt) <= set(vocab):
            _chain(list(spelt), vocab, merges)
    return {token: i for i, token in enumerate(vocab)}, merges


def _chain(parts, vocab, merges):
    begun = parts[0]
    for part in parts[1:]:
        if (begun, part) not in merges:
            merges.append((begun, part))
        begun += part
        vocab.setdefault(begun)


def write(folder, *, settings=None, model=None, files=(), backend=None):
    """One folder: tokenizer_config.json, config.json, other files by name, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer_config.json", settings), ("config.json", model), *dict(files).items()):
        if content is not None:
            text = content if isinstance(content, str | bytes) else json.dumps(content, ensure_ascii=False)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if backend is not None:
        backend.save(str(folder / "tokenizer.json"))
    return folder


def vocab_files(first=()):
    vocab, merges = byte_level_parts(first)
    return {"vocab.json": vocab, "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)}


def byte_level_file(first=(), special=(), dropout=None):
    """GPT-2's splitting, whatever class the folder then names."""
    vocab, merges = byte_level_parts(first)
    backend = Tokenizer(models.BPE(vocab, merges, dropout=dropout))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return backend


def spiece_file(bos=True):
    """As Llama 2's tokenizer.json: the space mark is put before every stretch of text between special tokens."""
    vocab, merges = spiece_parts()
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
    return backend


def piece_model(
    *,
    algorithm=2,
    whole=(),
    joins_spaces=False,
    puts_space=True,
    first=("<unk>", "<s>", "</s>"),
    name="tokenizer.model",
):
    """The same vocabulary as a SentencePiece model (algorithm 1: Unigram, 2: BPE), with `whole` as user-defined pieces."""
    model = sentencepiece_model_pb2.ModelProto()
    vocab = dict.fromkeys([*first, *(word for word in spiece_parts()[0] if word not in first), *whole])
    for i, text in enumerate(vocab):
        kind = (
            2 if text == "<unk>" else 3 if text in first else 6 if text.startswith("<0x") else 4 if text in whole else 1
        )
        model.pieces.add(piece=text, score=-i if algorithm == 2 else len(text) - i / 1000, type=kind)
    trainer, rules = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = algorithm, True
    trainer.unk_id, trainer.bos_id, trainer.eos_id = (
        list(vocab).index(text) if text in vocab else -1 for text in ("<unk>", first[1], first[2])
    )
    rules.name, rules.escape_whitespaces = "identity", True
    rules.remove_extra_whitespaces, rules.add_dummy_prefix = joins_spaces, puts_space
    return {name: model.SerializeToString()}


PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] the and test good Good cafe café ##ness a b c run . , ! ? 12 日 本 x u ##p ##per".split()


def bert_file():
    """Cased, so that the class's own lower case shows."""
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(PIECES[:5])
    return backend


def _qwen_tokens(*more):
    """added_tokens_decoder behind the 256 bytes and the words."""
    start = len(byte_level_parts()[0])
    tokens = [END, START, STOP, *more]
    return {
        str(start + i): token if isinstance(token, dict) else {"content": token, "special": True}
        for i, token in enumerate(tokens)
    }


def _plain(content):
    return {
        "content": content,
        "special": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }


QWEN = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": STOP, "pad_token": END}
BERT_VOCAB = {"vocab.txt": "\n".join(PIECES) + "\n"}
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")
MASK = {"content": "<mask>", "lstrip": True, "normalized": False, "special": True}


def _after(first=()):
    return len(byte_level_parts(first)[0])


LAYOUTS = {
    "qwen2 from vocabulary files": lambda f: write(
        f, settings={**QWEN, "added_tokens_decoder": _qwen_tokens(_plain("<think>"))}, files=vocab_files()
    ),
    "qwen2 from vocabulary files, added_tokens.json and special_tokens_map.json": lambda f: write(
        f,
        settings=QWEN,
        files={
            **vocab_files(),
            "added_tokens.json": {END: _after(), START: _after() + 1, STOP: _after() + 2, "<think>": _after() + 3},
            "special_tokens_map.json": {"additional_special_tokens": [START, STOP], "eos_token": {"content": STOP, "lstrip": False}},
        },
    ),
    "qwen2 with another splitting in tokenizer.json": lambda f: write(
        f, settings=QWEN, backend=byte_level_file(special=[END, START, STOP])
    ),
    "qwen2 with tokens in added_tokens_decoder alone": lambda f: write(
        f,
        settings={**QWEN, "added_tokens_decoder": _qwen_tokens(_plain("<think>"), "<tool>")},
        backend=byte_level_file(special=[END, START, STOP]),
    ),
    "qwen2 with added_tokens.json beside tokenizer.json": lambda f: write(
        f, settings=QWEN, files={"added_tokens.json": {"<think>": _after() + 3}}, backend=byte_level_file(special=[END, START, STOP])
    ),
    "qwen2 whose end is an ordinary entry": lambda f: write(
        f, settings=QWEN, backend=byte_level_file(first=[END, STOP], special=[END])
    ),
    "qwen2 with dropout": lambda f: write(f, settings=QWEN, backend=byte_level_file(special=[END, START, STOP], dropout=0.5)),
    "model type qwen2 that says LlamaTokenizerFast": lambda f: write(
        f,
        settings={"tokenizer_class": "LlamaTokenizerFast", "eos_token": STOP},
        model={"model_type": "qwen2"},
        backend=byte_level_file(special=[END, START, STOP]),
    ),
    "model type qwen3 without a class": lambda f: write(
        f, settings={"eos_token": END}, model={"model_type": "qwen3"}, files=vocab_files([END])
    ),
    "model type qwen3 with a general class": lambda f: write(
        f,
        settings={"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": STOP, "extra_special_tokens": ["<think>"]},
        model={"model_type": "qwen3"},
        backend=byte_level_file(special=[END, START, STOP]),
    ),
    "gpt2 from vocabulary files": lambda f: write(f, settings={"tokenizer_class": "GPT2Tokenizer"}, files=vocab_files([END])),
    "gpt2 by its model type": lambda f: write(f, model={"model_type": "gpt2"}, files=vocab_files([END])),
    "gpt2 with add_bos_token": lambda f: write(
        f, settings={"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}, files=vocab_files([END])
    ),
    "gpt2 with a space in front, its own ends": lambda f: write(
        f,
        settings={
            "tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "add_bos_token": True, "add_eos_token": True,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": None, "model_type": "x",
        },
        files=vocab_files([END, "<s>", "</s>"]),
    ),
    "gpt2 with add_bos_token beside tokenizer.json": lambda f: write(
        f, settings={"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}, backend=byte_level_file([END], [END])
    ),
    "gpt2 with additional_special_tokens": lambda f: write(
        f,
        settings={"tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": ["<think>", "<tool>"], "pad_token": "<pad>"},
        files=vocab_files([END]),
    ),
    "roberta from vocabulary files": lambda f: write(
        f, settings={"tokenizer_class": "RobertaTokenizer", "mask_token": {"__type": "AddedToken", **MASK}}, files=vocab_files(ROBERTA)
    ),
    "roberta with a space in front": lambda f: write(
        f, settings={"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True}, backend=byte_level_file(ROBERTA, ROBERTA)
    ),
    "gpt-neox with accents": lambda f: write(
        f, settings={"tokenizer_class": "GPTNeoXTokenizer", "add_eos_token": True}, files=vocab_files([END])
    ),
    "bert from its vocabulary": lambda f: write(f, settings={"tokenizer_class": "BertTokenizer"}, files=BERT_VOCAB),
    "bert by its model type, tokenizer.json cased": lambda f: write(
        f, settings={}, model={"model_type": "bert"}, backend=bert_file()
    ),
    "bert cased with added tokens": lambda f: write(
        f,
        settings={"tokenizer_class": "BertTokenizer", "do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True},
        files={**BERT_VOCAB, "added_tokens.json": {"[NEW]": len(PIECES), "goodness": len(PIECES) + 1}},
    ),
    "distilbert with added_tokens_decoder": lambda f: write(
        f,
        settings={
            "tokenizer_class": "DistilBertTokenizer",
            "added_tokens_decoder": {str(len(PIECES)): _plain("[NEW]"), "4": {"content": "[MASK]", "special": True}},
        },
        backend=bert_file(),
    ),
    "llama": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, model={"model_type": "llama"}, backend=spiece_file()
    ),
    "llama as before transformers 4.31": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizerFast", "legacy": True}, backend=spiece_file()
    ),
    "llama without a space in front": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "pad_token": "<pad>"}, backend=spiece_file(False)
    ),
    "llama 3, byte level": lambda f: write(
        f,
        settings={"tokenizer_class": "LlamaTokenizerFast", "bos_token": END, "image_token": "<image>"},
        model={"model_type": "llama"},
        backend=byte_level_file([END], [END]),
    ),
    "mistral keeps its tokenizer.json": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer"}, model={"model_type": "mistral"}, backend=spiece_file()
    ),
    "gemma": lambda f: write(f, settings={"tokenizer_class": "GemmaTokenizer"}, backend=spiece_file()),
    "a general class, named tokens of a model's own": lambda f: write(
        f,
        settings={
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True,
            "extra_special_tokens": {"image_token": "<image>", "tool_token": "<tool>"},
        },
        backend=spiece_file(),
    ),
    "a class that nobody knows": lambda f: write(
        f,
        settings={"tokenizer_class": "MyTokenizer", "eos_token": "<s>", "split_special_tokens": True},
        files={"special_tokens_map.json": {"eos_token": "</s>", "additional_special_tokens": ["<think>"]}},
        backend=spiece_file(),
    ),
    "a general class whose two files give a token other flags": lambda f: write(
        f,
        settings={"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {str(_after()): _plain("<think>")}},
        backend=_with_tokens(byte_level_file(), AddedToken("<think>", lstrip=True, rstrip=True)),
    ),
    "added tokens that take spaces": lambda f: write(
        f,
        settings={"tokenizer_class": "TokenizersBackend", "mask_token": "<mask>", "added_tokens_decoder": {str(_after() + 1): MASK}},
        backend=_with_tokens(byte_level_file(), AddedToken("<think>", rstrip=True, single_word=True)),
    ),
    "llama from its SentencePiece model": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, model={"model_type": "llama"}, files=piece_model()
    ),
    "llama from its SentencePiece model, as before transformers 4.31, with tokens behind it": lambda f: write(
        f,
        settings={
            "tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_eos_token": True, "pad_token": "<pad>",
            "added_tokens_decoder": _behind_spiece("<pad>"),
        },
        files=piece_model(),
    ),
    "llama from its SentencePiece model, without flags": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer"}, files=piece_model(whole=("<tool>",))
    ),
    "mistral from its SentencePiece model": lambda f: write(
        f, settings={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, model={"model_type": "mistral"}, files=piece_model()
    ),
    "gemma from its SentencePiece model": lambda f: write(
        f,
        settings={"tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
        files=piece_model(puts_space=False, whole=("▁▁", "<mask>", "<tool>"), first=("<pad>", "<eos>", "<bos>", "<unk>")),
    ),
    "a SentencePiece model and no class": lambda f: write(f, files=piece_model(joins_spaces=True)),
    "a SentencePiece model with whole pieces, and a class that nobody knows": lambda f: write(
        f,
        settings={"tokenizer_class": "MyTokenizer", "legacy": False, "add_eos_token": True},
        files=piece_model(whole=("<think>", "the</", "1234"), joins_spaces=True),
    ),
    "a SentencePiece model of Unigram": lambda f: write(
        f, settings={"tokenizer_class": "PreTrainedTokenizer", "bos_token": "<s>"}, files=piece_model(algorithm=1)
    ),
    "t5 from its SentencePiece model": lambda f: write(
        f, model={"model_type": "t5"}, files=piece_model(algorithm=1, first=("<pad>", "</s>", "<unk>"), name="spiece.model")
    ),
    "mt5 from its SentencePiece model": lambda f: write(
        f,
        settings={"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": None, "eos_token": "</s>"},
        model={"model_type": "mt5"},
        files=piece_model(algorithm=1, first=("<pad>", "</s>", "<unk>"), name="spiece.model"),
    ),
    "a SentencePiece model whose pieces are renamed": lambda f: write(
        f,
        settings={
            "tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<image>"],
            "added_tokens_decoder": _behind_spiece("<|im_end|>"),
        },
        model={"model_type": "internlm2"},
        files=piece_model(whole=("unused 1", "unused 2")),
    ),
}  # fmt: skip


def _behind_spiece(special):
    behind = len(spiece_parts()[0])
    return {str(behind): {"content": special, "special": True}, str(behind + 1): _plain("<think>")}


def _with_tokens(backend, *tokens):
    backend.add_tokens(list(tokens))
    return backend
