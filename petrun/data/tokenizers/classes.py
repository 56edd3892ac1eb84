"""Which of transformers' tokenizer classes a folder asks for, and how each class sets a tokenizer up around its vocabulary.

The rules are those of transformers 5.24 (models/auto/tokenization_auto.py and models/*/tokenization_*.py): a class with a setup of
its own takes vocabulary and merges from tokenizer.json and puts its own normalizer, pre-tokenizer and decoder around them; any other
class takes tokenizer.json as it is. transformers 4 took tokenizer.json as it is for every class. One rule differs on purpose:
a folder of model_type qwen2 that names a general class (PreTrainedTokenizerFast) keeps its tokenizer.json, where transformers 5.24
uses Qwen2Tokenizer all the same: who writes that class means the file, and transformers 4 read it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Merges = list[tuple[str, str]]

GENERAL = ""
"""Stands for every class without a setup of its own: tokenizer.json holds the whole tokenizer."""
_GENERAL_NAMES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "BloomTokenizer")

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model with their ids; `merges` are of BPE alone, the first learned first."""

    ids: dict[str, int]
    merges: Merges = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TokenizerClass:
    """One class. `setup(vocabulary, settings, specials)` makes the tokenizer without its special tokens."""

    model: str
    """"BPE" or "WordPiece"."""
    setup: Callable[[Vocabulary, Mapping[str, Any], Mapping[str, str]], Tokenizer]
    specials: Mapping[str, str]
    """bos_token, eos_token, ... of a folder that does not name them."""
    files: tuple[str, ...] = ()
    """The vocabulary's files where there is no tokenizer.json; () for classes that have none but a SentencePiece model."""
    frame: Callable[[Tokenizer, Mapping[str, str]], Any] | None = None
    """Makes the post-processor that the class always uses, with [CLS] ... [SEP]."""
    keeps_frame: bool = True
    """The post-processor of tokenizer.json stays where the class has none of its own."""
    marks_all_special: bool = False
    """The class adds its special tokens once more, so that they are special whatever added_tokens_decoder says."""


def class_name(settings: Mapping[str, Any], model: Mapping[str, Any], *, byte_level_file: bool) -> str:
    """The name of the class that AutoTokenizer takes; GENERAL for a general class, or one that has no name here.

    Inputs: the contents of tokenizer_config.json and of config.json ({} where there is none); whether there is a tokenizer.json and
    it says ByteLevel.
    """
    named = _spelled(settings.get("tokenizer_class")) or _spelled(model.get("tokenizer_class"))
    kind = model.get("model_type")
    of_model = _OF_MODEL.get(kind) if isinstance(kind, str) else None
    if kind == "qwen2" and named not in _GENERAL_NAMES:
        return "Qwen2Tokenizer"
    if named == "LlamaTokenizer" and byte_level_file:
        return GENERAL
    # Of these, transformers trusts tokenizer.json more than the class that the folder names.
    if kind in ("mistral", "mixtral", "phi3"):
        return GENERAL
    return GENERAL if named in _GENERAL_NAMES else named or of_model or GENERAL


def _spelled(name: Any) -> str:
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _byte_level(
    vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str], *, compose: bool = False
) -> Tokenizer:
    """GPT-2's, RoBERTa's; with `compose` GPT-NeoX's, which composes accents (NFC)."""
    backend = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges))
    if compose:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    return backend


def _gpt_neox(vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str]) -> Tokenizer:
    return _byte_level(vocabulary, settings, specials, compose=True)


def _qwen2(vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges))
    backend.normalizer = normalizers.NFC()
    space = bool(settings.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _llama(vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges, fuse_unk=True, byte_fallback=True))
    given = settings.get("add_prefix_space")
    space = True if given is None else bool(given)
    scheme = "never" if not space else "always" if settings.get("legacy") else "first"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if space else steps)
    return backend


def _gemma(vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str]) -> Tokenizer:
    unknown = specials["unk_token"]
    model = models.BPE(
        vocab=vocabulary.ids, merges=vocabulary.merges, fuse_unk=True, unk_token=unknown, byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _bert(vocabulary: Vocabulary, settings: Mapping[str, Any], specials: Mapping[str, str]) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(vocabulary.ids, unk_token=specials["unk_token"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=bool(settings.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _bert_frame(backend: Tokenizer, specials: Mapping[str, str]) -> Any:
    cls, sep = specials["cls_token"], specials["sep_token"]
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, _id_of(backend, token)) for token in dict.fromkeys((cls, sep))],
    )


def _roberta_frame(backend: Tokenizer, specials: Mapping[str, str]) -> Any:
    sep, cls = specials["sep_token"], specials["cls_token"]
    return processors.RobertaProcessing((sep, _id_of(backend, sep)), (cls, _id_of(backend, cls)))


def _id_of(backend: Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    assert found is not None, "every named token is in the vocabulary before a post-processor is made"
    return found


def bos_and_eos(
    bos: str | None, eos: str | None, backend: Tokenizer, *, add_bos: bool, add_eos: bool
) -> processors.TemplateProcessing:
    """The post-processor of `add_bos_token` and `add_eos_token` in tokenizer_config.json. A token that the folder lacks is left out."""
    first = bos if add_bos else None
    last = eos if add_eos else None

    def around(text: str, segment: int) -> str:
        parts = [f"{first}:{segment}"] if first else []
        return " ".join([*parts, f"{text}:{segment}", *([f"{last}:{segment}"] if last else [])])

    used = dict.fromkeys(token for token in (first, last) if token)
    return processors.TemplateProcessing(
        single=around("$A", 0),
        pair=f"{around('$A', 0)} {around('$B', 1)}",
        special_tokens=[(token, _id_of(backend, token)) for token in used],
    )


_END = "<|endoftext|>"
_BERT = TokenizerClass(
    model="WordPiece",
    setup=_bert,
    specials={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    files=("vocab.txt",),
    frame=_bert_frame,
)
_BPE_FILES = ("vocab.json", "merges.txt")
_ROBERTA = TokenizerClass(
    model="BPE",
    setup=_byte_level,
    specials={
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
        "cls_token": "<s>", "mask_token": "<mask>",
    },
    files=_BPE_FILES,
    frame=_roberta_frame,
)  # fmt: skip
_LLAMA_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GEMMA_SPECIALS = {
    "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip

CLASSES: dict[str, TokenizerClass] = {
    "GPT2Tokenizer": TokenizerClass(
        model="BPE",
        setup=_byte_level,
        specials={"bos_token": _END, "eos_token": _END, "unk_token": _END},
        files=_BPE_FILES,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        model="BPE",
        setup=_qwen2,
        specials={"eos_token": _END, "unk_token": _END, "pad_token": _END},
        files=_BPE_FILES,
        marks_all_special=True,
    ),
    # Without `files`: transformers reads these two from tokenizer.json or a SentencePiece model alone.
    "LlamaTokenizer": TokenizerClass(model="BPE", setup=_llama, specials=_LLAMA_SPECIALS),
    "GemmaTokenizer": TokenizerClass(model="BPE", setup=_gemma, specials=_GEMMA_SPECIALS),
    "GPTNeoXTokenizer": TokenizerClass(
        model="BPE",
        setup=_gpt_neox,
        specials={"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
        files=_BPE_FILES,
        keeps_frame=False,
    ),
}
_LIKE_BERT = (
    "Bert",
    "DistilBert",
    "Electra",
    "ConvBert",
    "MobileBert",
    "SqueezeBert",
    "LayoutLM",
    "DPRQuestionEncoder",
)
CLASSES |= dict.fromkeys((f"{name}Tokenizer" for name in _LIKE_BERT), _BERT)
CLASSES |= dict.fromkeys((f"{name}Tokenizer" for name in ("Roberta", "Bart", "LED", "Longformer")), _ROBERTA)

_OF_MODEL = {
    "bert": "BertTokenizer", "distilbert": "BertTokenizer", "electra": "BertTokenizer", "gpt2": "GPT2Tokenizer", "gptj": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer", "gpt_neox": "GPTNeoXTokenizer", "opt": "GPT2Tokenizer", "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer", "roberta": "RobertaTokenizer", "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer",
}  # fmt: skip
"""The class of a folder that names none, by config.json's model_type."""
