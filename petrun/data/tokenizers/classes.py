"""Define transformers' tokenizer classes: choose the one that a folder names, and set up each around its vocabulary.

The rules are those of transformers 5.24 (models/auto/tokenization_auto.py and models/*/tokenization_*.py): a class with a setup of
its own takes vocabulary and merges from tokenizer.json and adds its normalizer, pre-tokenizer and decoder; any other class uses
tokenizer.json unchanged. transformers 4 used tokenizer.json unchanged for every class. One rule differs on purpose: a folder of
model_type qwen2 that names a general class (PreTrainedTokenizerFast) keeps its tokenizer.json, where transformers 5.24 uses
Qwen2Tokenizer: the author of such a folder means the file, and transformers 4 reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from petrun.data.tokenizers.sentencepiece_model import NAME as PIECES_FILE
from petrun.data.tokenizers.sentencepiece_model import PieceModel, set_up
from petrun.typing import JsonObject

Merges = list[tuple[str, str]]

GENERAL = ""
"""The name of every class without a setup here: tokenizer.json holds the complete tokenizer."""
_FILE_MODEL_TYPES = ("mistral", "mixtral", "phi3")
"""model_type of folders whose tokenizer.json takes precedence over the class that they name, as in transformers."""
_GENERAL_NAMES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "BloomTokenizer")

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model with their ids; only BPE has `merges`, in the order of learning."""

    ids: dict[str, int]
    merges: Merges = field(default_factory=list)
    pieces: PieceModel | None = None
    """The SentencePiece model that they come from."""


@dataclass(frozen=True, kw_only=True)
class TokenizerClass:
    """One class. `setup(vocabulary, settings, specials)` makes the tokenizer without its special tokens."""

    names: tuple[str, ...]
    """Names in tokenizer_config.json, without "Fast"; the first one stands for the class."""
    model: str
    """"BPE", "WordPiece" or "Unigram"; "SentencePiece": what the SentencePiece model says."""
    setup: Callable[[Vocabulary, JsonObject, Mapping[str, str]], Tokenizer]
    specials: Mapping[str, str]
    """bos_token, eos_token, ... of a folder that does not name them."""
    files: tuple[str, ...] = ()
    """The vocabulary's files where there is no tokenizer.json; () for classes that have none but a SentencePiece model."""
    reads_pieces: bool = False
    """Whether the vocabulary may be a SentencePiece model."""
    pieces_file: str = PIECES_FILE
    """The name of that model's file."""
    frame: Callable[[Tokenizer, Mapping[str, str]], processors.PostProcessor] | None = None
    """Makes the post-processor that the class always uses, with [CLS] ... [SEP]."""
    keeps_frame: bool = True
    """Whether to keep the post-processor of tokenizer.json where the class has none."""
    model_types: tuple[str, ...] = ()
    """model_type in config.json of folders that get this class where they name none."""
    forced_model_types: tuple[str, ...] = ()
    """model_type of folders that get this class whatever class they name, unless it is a general one."""
    byte_level: bool = True
    """False: a folder whose tokenizer.json says ByteLevel does not mean this class, whatever it names."""


def class_name(settings: JsonObject, model: JsonObject, *, byte_level_file: bool) -> str:
    """Return the name of the class that AutoTokenizer uses; GENERAL for a general class, or one that is not listed here.

    Inputs: the contents of tokenizer_config.json and of config.json ({} where there is none); whether there is a tokenizer.json and
    it says ByteLevel.
    """
    named = _without_fast(settings.get("tokenizer_class")) or _without_fast(model.get("tokenizer_class"))
    kind = model.get("model_type")
    forced = next((each for each in CLASSES if kind in each.forced_model_types), None)
    if forced is not None and named not in _GENERAL_NAMES:
        return forced.names[0]
    of_name = find_class(named)
    if of_name is not None and not of_name.byte_level and byte_level_file:
        return GENERAL
    if kind in _FILE_MODEL_TYPES:
        return GENERAL
    of_model = next((each.names[0] for each in CLASSES if kind in each.model_types), GENERAL)
    return GENERAL if named in _GENERAL_NAMES else named or of_model


def find_class(name: str) -> TokenizerClass | None:
    """Return the class of this name; None for general classes, and for others without a setup here."""
    return next((each for each in CLASSES if name in each.names), None)


def class_of_vocabulary(*, word_list: bool) -> str:
    """Return the name of the class of a folder that names none and has only vocabulary files: vocab.txt, or vocab.json and merges.txt."""
    return (_BERT if word_list else _GPT2).names[0]


def _without_fast(name: object) -> str:
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _byte_level(
    vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str], *, compose: bool = False
) -> Tokenizer:
    """Set up GPT-2's or RoBERTa's tokenizer; with `compose` GPT-NeoX's, which composes accents (NFC)."""
    backend = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges))
    if compose:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    return backend


def _gpt_neox(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    return _byte_level(vocabulary, settings, specials, compose=True)


def _qwen2(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
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


def _clip(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    model = models.BPE(
        vocab=vocabulary.ids, merges=vocabulary.merges, unk_token=specials["unk_token"], end_of_word_suffix="</w>"
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return backend


def _clip_frame(backend: Tokenizer, specials: Mapping[str, str]) -> processors.PostProcessor:
    bos, eos = specials["bos_token"], specials["eos_token"]
    return processors.RobertaProcessing((eos, _id_of(backend, eos)), (bos, _id_of(backend, bos)), False, False)


def _llama(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges, fuse_unk=True, byte_fallback=True))
    given = settings.get("add_prefix_space")
    space = True if given is None else bool(given)
    scheme = "never" if not space else "always" if settings.get("legacy") else "first"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps: list[object] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if space else steps)
    return backend


def _gemma(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    unknown = specials["unk_token"]
    model = models.BPE(
        vocab=vocabulary.ids, merges=vocabulary.merges, fuse_unk=True, unk_token=unknown, byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _as_sentencepiece(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    assert vocabulary.pieces is not None, "this class is chosen where there is a SentencePiece model"
    return set_up(vocabulary.pieces, settings)


def _chatglm(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    assert vocabulary.pieces is not None, "the class reads nothing but a SentencePiece model"
    behind = {token: len(vocabulary.pieces.pieces) + i for i, token in enumerate(_CHATGLM_COMMANDS)}
    return set_up(vocabulary.pieces, settings, behind)


def _t5(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
    assert vocabulary.pieces is not None, "tokenizer.json of this class is the complete tokenizer"
    pieces = [(piece.text, piece.score) for piece in vocabulary.pieces.pieces]
    given = settings.get("extra_ids")
    count = given if isinstance(given, int) else _T5_EXTRA_IDS
    marks = [f"<extra_id_{i}>" for i in reversed(range(count))]
    # Without the model's byte pieces, as transformers 5.24 has it: a character that the vocabulary lacks is unknown.
    backend = Tokenizer(models.Unigram(vocab=[*pieces, *((mark, 0.0) for mark in marks)], unk_id=2))
    if vocabulary.pieces.charsmap:
        backend.normalizer = normalizers.Precompiled(vocabulary.pieces.charsmap)
    space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.add_special_tokens(marks)
    return backend


def _t5_frame(backend: Tokenizer, specials: Mapping[str, str]) -> processors.PostProcessor:
    end = specials["eos_token"]
    return processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, _id_of(backend, end))]
    )


def _chatglm_frame(backend: Tokenizer, specials: Mapping[str, str]) -> processors.PostProcessor:
    mask, start, eos = "[gMASK]", "sop", specials["eos_token"]
    return processors.TemplateProcessing(
        single=f"{mask}:0 {start}:0 $A:0",
        pair=f"{mask}:0 {start}:0 $A:0 $B:1 {eos}:1",
        special_tokens=[(token, _id_of(backend, token)) for token in (mask, start, eos)],
    )


def _bert(vocabulary: Vocabulary, settings: JsonObject, specials: Mapping[str, str]) -> Tokenizer:
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


def _bert_frame(backend: Tokenizer, specials: Mapping[str, str]) -> processors.PostProcessor:
    cls, sep = specials["cls_token"], specials["sep_token"]
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, _id_of(backend, token)) for token in dict.fromkeys((cls, sep))],
    )


def _roberta_frame(backend: Tokenizer, specials: Mapping[str, str]) -> processors.PostProcessor:
    sep, cls = specials["sep_token"], specials["cls_token"]
    return processors.RobertaProcessing((sep, _id_of(backend, sep)), (cls, _id_of(backend, cls)))


def _id_of(backend: Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    assert found is not None, "every named token is in the vocabulary before a post-processor is made"
    return found


def bos_and_eos(
    bos: str | None, eos: str | None, backend: Tokenizer, *, add_bos: bool, add_eos: bool
) -> processors.TemplateProcessing:
    """Return the post-processor of `add_bos_token` and `add_eos_token` in tokenizer_config.json, without tokens that the folder lacks."""
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
_T5_EXTRA_IDS = 100
"""Marks of gaps behind T5's vocabulary, where tokenizer_config.json does not say how many."""
_CHATGLM_COMMANDS = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip
"""Tokens behind ChatGLM's vocabulary. ChatGLM2 has the first five."""
_BPE_FILES = ("vocab.json", "merges.txt")
_BERT = TokenizerClass(
    names=(
        "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "ConvBertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer",
        "LayoutLMTokenizer", "DPRQuestionEncoderTokenizer",
    ),
    model="WordPiece",
    setup=_bert,
    specials={
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    },
    files=("vocab.txt",),
    frame=_bert_frame,
    model_types=("bert", "distilbert", "electra"),
)  # fmt: skip
_GPT2 = TokenizerClass(
    names=("GPT2Tokenizer",),
    model="BPE",
    setup=_byte_level,
    specials={"bos_token": _END, "eos_token": _END, "unk_token": _END},
    files=_BPE_FILES,
    model_types=("gpt2", "gptj", "gpt_neo", "opt"),
)

CLASSES: tuple[TokenizerClass, ...] = (
    _BERT,
    _GPT2,
    TokenizerClass(
        names=("Qwen2Tokenizer",),
        model="BPE",
        setup=_qwen2,
        specials={"eos_token": _END, "unk_token": _END, "pad_token": _END},
        files=_BPE_FILES,
        model_types=("qwen3", "qwen3_moe"),
        forced_model_types=("qwen2",),
    ),
    TokenizerClass(
        names=("RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer"),
        model="BPE",
        setup=_byte_level,
        specials={
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
            "cls_token": "<s>", "mask_token": "<mask>",
        },
        files=_BPE_FILES,
        frame=_roberta_frame,
        model_types=("roberta",),
    ),
    TokenizerClass(
        names=("GPTNeoXTokenizer",),
        model="BPE",
        setup=_gpt_neox,
        specials={"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
        files=_BPE_FILES,
        keeps_frame=False,
        model_types=("gpt_neox",),
    ),
    TokenizerClass(
        names=("CLIPTokenizer",),
        model="BPE",
        setup=_clip,
        specials={"bos_token": "<|startoftext|>", "eos_token": _END, "unk_token": _END, "pad_token": _END},
        files=_BPE_FILES,
        frame=_clip_frame,
        model_types=("clip_text_model",),
    ),
    # Without `files`: transformers reads these from tokenizer.json or a SentencePiece model alone.
    TokenizerClass(
        names=("LlamaTokenizer",),
        model="BPE",
        setup=_llama,
        specials={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        reads_pieces=True,
        byte_level=False,
    ),
    TokenizerClass(
        names=("GemmaTokenizer",),
        model="BPE",
        setup=_gemma,
        specials={
            "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
        },
        reads_pieces=True,
        model_types=("gemma", "gemma2", "gemma3", "gemma3_text"),
    ),
    TokenizerClass(
        names=("T5Tokenizer", "MT5Tokenizer"),
        model="Unigram",
        setup=_t5,
        specials={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        reads_pieces=True,
        pieces_file="spiece.model",
        frame=_t5_frame,
        model_types=("t5", "mt5"),
    ),
    # The class of the folders' own code, tokenization_chatglm.py of ChatGLM2 and 3; ids were held against it.
    TokenizerClass(
        names=("ChatGLMTokenizer",),
        model="SentencePiece",
        setup=_chatglm,
        specials={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
        reads_pieces=True,
        frame=_chatglm_frame,
        model_types=("chatglm",),
    ),
)  # fmt: skip
"""Every class that has a setup."""

SENTENCEPIECE = TokenizerClass(
    names=("TokenizersBackend",), model="SentencePiece", setup=_as_sentencepiece, specials={}, reads_pieces=True
)
"""The class of a folder that has a SentencePiece model and names a general class, or one without a setup here."""
