"""The tokenizer's files in a Hugging Face folder: tokenizer.json or a vocabulary, special tokens, chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from petrun.errors import DataError

NAMES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "chat_template.jinja", "tokenizer.model",
)  # fmt: skip
_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerFiles:
    """What a folder says about its tokenizer."""

    folder: Path
    backend: Any = field(repr=False)
    """tokenizers.Tokenizer."""
    specials: dict[str, str]
    """bos_token, eos_token, ... -> the token's text; also any other *_token of tokenizer_config.json."""
    chat_template: str | None = None
    bos_id: int | None = None
    """This and the next two: from config.json, for folders whose tokenizer files name no such token."""
    eos_id: int | None = None
    pad_id: int | None = None
    truncation_side: str = "right"

    @property
    def chat_place(self) -> str:
        """Where the chat template stands, for messages."""
        own = self.folder / "chat_template.jinja"
        return str(own) if own.is_file() else f"{self.folder / 'tokenizer_config.json'}, chat_template"

    @property
    def present(self) -> tuple[Path, ...]:
        """The files themselves, for copying beside merged weights."""
        return tuple(self.folder / name for name in NAMES if (self.folder / name).is_file())


def read_tokenizer_files(folder: Path) -> TokenizerFiles | None:
    """None where the folder holds no tokenizer.

    Raises: DataError for a damaged file or a SentencePiece model alone.
    """
    config = _json(folder / "tokenizer_config.json")
    special_map = _json(folder / "special_tokens_map.json")
    specials = {**_token_texts(special_map), **_token_texts(config)}
    if (folder / "tokenizer.json").is_file():
        backend = _from_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        backend = _word_piece(folder / "vocab.txt", config, specials)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend = _byte_level_bpe(folder, config, specials)
    elif any((folder / name).is_file() for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")):
        raise DataError(
            f"{folder}: holds a SentencePiece model and no tokenizer.json",
            hint="Write one once, with transformers: AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR)",
        )
    else:
        return None
    model_config = _json(folder / "config.json")
    side = config.get("truncation_side", "right")
    return TokenizerFiles(
        folder,
        backend,
        specials,
        _chat_template(folder, config),
        _first_int(model_config.get("bos_token_id")),
        _first_int(model_config.get("eos_token_id")),
        _first_int(model_config.get("pad_token_id")),
        side if side in ("left", "right") else "right",
    )


def _from_tokenizer_json(path: Path) -> Any:
    text = _text(path)
    with ParseErrors(
        f"{path}: the tokenizer file is damaged", "Download it again, or save it with a recent transformers."
    ):
        return tokenizers.Tokenizer.from_str(text)


class ParseErrors:
    """Turns what the Rust library raises while it reads a file's content into a DataError.

    It has no class of its own for that but raises `Exception` itself: exactly that class is meant here, no subclass of it
    that might be a mistake in this program.
    """

    def __init__(self, what: str, hint: str) -> None:
        self._what, self._hint = what, hint

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # A panic of the library's own code derives from BaseException.
        if kind in (Exception, ValueError, TypeError) or (kind is not None and kind.__name__ == "PanicException"):
            raise DataError(f"{self._what}: {error}", hint=self._hint) from error


def _word_piece(path: Path, config: dict[str, Any], specials: dict[str, str]) -> Any:
    """BERT's tokenizer from its vocabulary, as BertTokenizer sets it up."""
    words = _text(path).split("\n")
    words = words[:-1] if words and not words[-1] else words
    vocab = {word.rstrip("\r"): i for i, word in enumerate(words)}
    names = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    for name, usual in names.items():
        specials.setdefault(name, usual)
    missing = [specials[name] for name in ("unk_token", "sep_token", "cls_token") if specials[name] not in vocab]
    if missing:
        raise DataError(
            f"{path}: the vocabulary lacks {', '.join(missing)}", hint="A WordPiece vocabulary holds one token a line."
        )
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocab, unk_token=specials["unk_token"], max_input_chars_per_word=100)
    )
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = specials["cls_token"], specials["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    backend.add_special_tokens([specials[name] for name in names if specials[name] in vocab])
    return backend


def _byte_level_bpe(folder: Path, config: dict[str, Any], specials: dict[str, str]) -> Any:
    """GPT-2's tokenizer from vocab.json and merges.txt."""
    vocab = _json(folder / "vocab.json")
    merges = []
    for number, line in enumerate(_text(folder / "merges.txt").split("\n"), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise DataError(f"{folder / 'merges.txt'}, line {number}: expected two tokens, found {line[:40]!r}")
        merges.append((parts[0], parts[1]))
    with ParseErrors(f"{folder}: vocab.json and merges.txt do not fit together", "Download both files again."):
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if "<|endoftext|>" in vocab:
        for name in ("bos_token", "eos_token", "unk_token"):
            specials.setdefault(name, "<|endoftext|>")
    added = _json(folder / "added_tokens.json")
    decoder = config.get("added_tokens_decoder") or {}
    listed = {int(i): entry for i, entry in decoder.items()} | {int(i): {"content": text} for text, i in added.items()}
    for _, entry in sorted(listed.items()):
        flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        token = tokenizers.AddedToken(entry["content"], special=bool(entry.get("special", True)), **flags)
        backend.add_tokens([token])
    backend.add_special_tokens(
        [text for text in dict.fromkeys(specials.values()) if backend.token_to_id(text) is not None]
    )
    return backend


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja, or the chat_template of tokenizer_config.json: a string, or named ones of which "default" is taken."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _text(path)
    template = config.get("chat_template")
    if template is None or isinstance(template, str):
        return template
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        chosen = named.get("default")
        if isinstance(chosen, str):
            return chosen
        raise DataError(
            f"{folder / 'tokenizer_config.json'}: none of the chat templates is named 'default'",
            hint=f"Named: {', '.join(map(str, named))}",
        )
    raise DataError(f"{folder / 'tokenizer_config.json'}: chat_template is neither text nor a list of named templates")


def _token_texts(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
    return found


def _first_int(value: Any) -> int | None:
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})", hint="Download the file again.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: not JSON: {error.msg}", hint="Download the file again."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply", hint="Download the file again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object", hint="Download the file again.")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: holds half of a surrogate pair", hint="Download the file again.") from error
    return value
