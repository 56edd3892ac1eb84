"""Read the tokenizer's files in a Hugging Face folder: tokenizer.json or a vocabulary, special tokens, chat template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from petrun.data.templates.tokenizer_templates import ADDITIONAL, read_chat_template, template_files
from petrun.data.tokenizers.classes import (
    CLASSES,
    SENTENCEPIECE,
    TokenizerClass,
    Vocabulary,
    bos_and_eos,
    class_name,
    class_of_vocabulary,
    find_class,
)
from petrun.data.tokenizers.sentencepiece_model import NAME as PIECES_FILE
from petrun.data.tokenizers.sentencepiece_model import PieceModel, read_pieces
from petrun.data.tokenizers.special_tokens import Declared, add_declared, declared_tokens
from petrun.errors import DataError
from petrun.typing import JsonObject

NAMES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "chat_template.jinja", *sorted({PIECES_FILE, *(each.pieces_file for each in CLASSES)}, reverse=True),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer of a folder and its settings."""

    folder: Path
    backend: Any = field(repr=False)
    """tokenizers.Tokenizer."""
    specials: dict[str, str]
    """bos_token, eos_token, ... -> the token's text; also any other *_token of tokenizer_config.json."""
    chat_template: str | None = None
    bos_id: int | None = None
    """This and the next two come from config.json, for folders whose tokenizer files name no such token."""
    eos_id: int | None = None
    pad_id: int | None = None
    truncation_side: str = "right"

    @property
    def chat_template_file(self) -> str:
        """The file that holds the chat template, for messages."""
        file = self.folder / "chat_template.jinja"
        if template_files(self.folder):
            return f"{self.folder}, chat_template.jinja and {ADDITIONAL}"
        return str(file) if file.is_file() else f"{self.folder / 'tokenizer_config.json'}, chat_template"

    @property
    def present(self) -> tuple[Path, ...]:
        """Return the files, which are copied beside merged weights."""
        return tuple(self.folder / name for name in NAMES if (self.folder / name).is_file())


def read_tokenizer_files(folder: Path) -> TokenizerFiles | None:
    """Read the tokenizer as transformers' AutoTokenizer does; None where the folder holds none.

    Raises: DataError for a damaged file, and vocabulary files of a class that is not known here.
    """
    settings = _json(folder / "tokenizer_config.json")
    model_config = _json(folder / "config.json")
    file = folder / "tokenizer.json"
    backend = _from_tokenizer_json(file) if file.is_file() else None
    stored = json.loads(_text(file)) if backend is not None else None
    name = class_name(settings, model_config, byte_level_file=stored is not None and "ByteLevel" in _text(file))
    if not any(config.get(key) for config in (settings, model_config) for key in ("tokenizer_class", "model_type")):
        # No class is named: where there are only vocabulary files, their names decide.
        name = name if backend is not None else class_of_vocabulary(word_list=(folder / "vocab.txt").is_file())
    kind = find_class(name)
    vocabulary = _vocabulary(folder, stored, name, kind)
    if vocabulary is None and backend is None:
        kind = kind if kind is not None and kind.reads_pieces else SENTENCEPIECE
        vocabulary = _pieces(folder, settings, name, kind)
    if vocabulary is None and backend is None:
        return None
    # For another class, or where the file's model is not the class's, tokenizer.json is the complete tokenizer.
    own = kind if vocabulary is not None else None
    declared = declared_tokens(
        folder,
        settings,
        _json(folder / "special_tokens_map.json"),
        _json(folder / "added_tokens.json"),
        _listed_tokens(file, stored),
        _default_specials(own, vocabulary),
    )
    if vocabulary is not None and vocabulary.pieces is not None:
        declared = _with_pieces(declared, own, vocabulary.pieces)
    frame = backend.post_processor if backend is not None else None
    if own is not None and vocabulary is not None:
        if stored is None:
            _require_words(folder, own, vocabulary, declared)
        read = (
            "tokenizer.json's vocabulary and merges"
            if stored is not None
            else " and ".join(own.files) or own.pieces_file
        )
        with ParseErrors(f"{folder}: {read} do not fit together", "Download the files again."):
            backend = own.setup(vocabulary, settings, declared.texts)
    assert backend is not None, "there is a tokenizer.json or a vocabulary"
    add_declared(backend, declared, folder)
    _frame(backend, own, declared, frame, settings if stored is None else {})
    backend.encode_special_tokens = bool(settings.get("split_special_tokens", False))
    side = settings.get("truncation_side") or str(((stored or {}).get("truncation") or {}).get("direction")).lower()
    return TokenizerFiles(
        folder=folder,
        backend=backend,
        specials=_named(declared, settings, vocabulary),
        chat_template=read_chat_template(folder, settings, _text),
        bos_id=_first_int(model_config.get("bos_token_id")),
        eos_id=_first_int(model_config.get("eos_token_id")),
        pad_id=_first_int(model_config.get("pad_token_id")),
        truncation_side=side if side in ("left", "right") else "right",
    )


def _vocabulary(folder: Path, stored: JsonObject | None, name: str, kind: TokenizerClass | None) -> Vocabulary | None:
    """Return the vocabulary for the class's setup; None where tokenizer.json is the complete tokenizer, or there is no tokenizer."""
    if stored is not None:
        model: JsonObject = stored["model"]
        if kind is None or model.get("type", kind.model) != kind.model or not isinstance(model["vocab"], dict):
            return None
        merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model.get("merges", [])]
        return Vocabulary(model["vocab"], merges)
    present = [file for file in ("vocab.txt", "vocab.json", "merges.txt") if (folder / file).is_file()]
    if kind is not None and kind.files and all((folder / file).is_file() for file in kind.files):
        if kind.model == "WordPiece":
            return Vocabulary(_word_ids(folder / "vocab.txt"))
        return Vocabulary(_json(folder / "vocab.json"), _merges(folder / "merges.txt"))
    if (folder / PIECES_FILE).is_file():
        return None
    if not present:
        return None
    if kind is None:
        raise DataError(
            f"{folder}: tokenizer_class is {name or 'a general class'}, of which vocabulary files alone do not say how text is split",
            hint="Fetch the base's tokenizer.json, which says it, or name the class of those files in tokenizer_config.json: "
            f"{', '.join([each.names[0] for each in CLASSES if each.files][:4])}, ...",
        )
    raise DataError(
        f"{folder}: {name} is read from {' and '.join(kind.files) or 'tokenizer.json'}; found {', '.join(present)}",
        hint="Fetch the other files of the base, or correct tokenizer_class in tokenizer_config.json.",
    )


def _pieces(folder: Path, settings: JsonObject, name: str, kind: TokenizerClass) -> Vocabulary | None:
    """Return the vocabulary of a SentencePiece model; None where there is none.

    Raises: DataError for a model that the class does not read, and for classes of the folder's own code.
    """
    path = folder / kind.pieces_file
    if not path.is_file():
        other = next((f for f in ("spiece.model", "sentencepiece.bpe.model") if (folder / f).is_file()), None)
        if other is not None:
            raise DataError(
                f"{folder}: holds {other}, whose ids its class changes, and no tokenizer.json",
                hint=f"Write one once: {_written_by(folder)}",
            )
        return None
    if kind is SENTENCEPIECE and settings.get("auto_map"):
        raise DataError(
            f"{folder}: tokenizer_class is {name}, of the folder's own code (auto_map), which petrun does not run",
            hint="Fetch the model's copy with tokenizer.json. Where the code does no more than SentencePiece and add_bos_token, "
            "take auto_map out of tokenizer_config.json.",
        )
    model = read_pieces(path)
    if kind.model != "SentencePiece" and model.algorithm != kind.model:
        raise DataError(
            f"{path}: is a {model.algorithm} model, and {name} reads {kind.model}", hint="Correct tokenizer_class."
        )
    return Vocabulary(model.ids, model.all_merges if kind.model == "BPE" else [], model)


def _default_specials(own: TokenizerClass | None, vocabulary: Vocabulary | None) -> Mapping[str, str]:
    """Return the special tokens of a folder that names none."""
    if own is SENTENCEPIECE and vocabulary is not None and vocabulary.pieces is not None:
        return vocabulary.pieces.specials
    return own.specials if own is not None else {}


def _with_pieces(declared: Declared, own: TokenizerClass | None, model: PieceModel) -> Declared:
    """Return what is declared with the pieces that text is searched for. User-defined ones are found by SENTENCEPIECE's own splitting."""
    extra = [token for token in model.declared if own is not SENTENCEPIECE or token.special]
    known = {token.content for token in (*declared.by_id.values(), *declared.extra)}
    by_id = declared.by_id
    if model.puts_space and own is SENTENCEPIECE:
        # Searched for in the text itself, so that each stretch between them gets its own space mark.
        by_id = {i: _as_written(token) for i, token in by_id.items()}
    return Declared(declared.named, by_id, (*declared.extra, *(token for token in extra if token.content not in known)))


def _as_written(token: tokenizers.AddedToken) -> tokenizers.AddedToken:
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return tokenizers.AddedToken(token.content, normalized=False, **flags)


def _written_by(folder: Path) -> str:
    """Return the commands that write tokenizer.json into a folder; the second works offline."""
    python = "import sys; from transformers import AutoTokenizer as A; A.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
    return (
        "pip install transformers sentencepiece protobuf, and then, also without a network: "
        f'HF_HUB_OFFLINE=1 python -c "{python}" {shlex.quote(str(folder))}'
    )


def _listed_tokens(path: Path, stored: JsonObject | None) -> list[JsonObject]:
    """Return the added_tokens of tokenizer.json."""
    listed = (stored or {}).get("added_tokens") or []
    if not isinstance(listed, list) or not all(isinstance(t, dict) and isinstance(t.get("id"), int) for t in listed):
        raise DataError(f"{path}: the tokenizer file is damaged: added_tokens", hint="Download it again.")
    return listed


def _named(declared: Declared, settings: Mapping[str, object], vocabulary: Vocabulary | None) -> dict[str, str]:
    """Return bos_token, eos_token, ... without the class's defaults that the vocabulary lacks, as the base has no embedding for those."""
    known = {token.content for token in declared.by_id.values()} | {token.content for token in declared.extra}
    return {
        name: text
        for name, text in declared.texts.items()
        if vocabulary is None or settings.get(name) is not None or text in vocabulary.ids or text in known
    }


def _frame(
    backend: Any, own: TokenizerClass | None, declared: Declared, stored: object, settings: Mapping[str, object]
) -> None:
    """Set the tokens that the tokenizer puts around a text.

    Inputs: `stored`, the post-processor of tokenizer.json; `settings`, tokenizer_config.json, whose add_bos_token and add_eos_token
    count only where there is no tokenizer.json ({} then), as in transformers 5; transformers 4 lets them change tokenizer.json's.
    """
    named = declared.texts
    if own is not None and own.frame is not None:
        backend.post_processor = own.frame(backend, named)
        return
    if own is not None:
        backend.post_processor = stored if own.keeps_frame else None
    flags = {name: bool(settings.get(f"add_{name}_token")) for name in ("bos", "eos")}
    if any(flags.values()):
        backend.post_processor = bos_and_eos(
            named.get("bos_token"), named.get("eos_token"), backend, add_bos=flags["bos"], add_eos=flags["eos"]
        )


def _from_tokenizer_json(path: Path) -> Any:
    text = _text(path)
    with ParseErrors(
        f"{path}: the tokenizer file is damaged", "Download it again, or save it with a recent transformers."
    ):
        backend = tokenizers.Tokenizer.from_str(text)
    if isinstance(backend.model, models.BPE):
        # Dropout of merges is for pretraining; one text must always give the same ids.
        backend.model.dropout = None
    return backend


class ParseErrors:
    """A context manager that converts errors of the Rust library while it reads a file's content to DataError.

    The library has no class for them but raises `Exception` itself: exactly that class is caught, not a subclass, which might be a
    mistake in this program.
    """

    def __init__(self, what: str, hint: str) -> None:
        self._what, self._hint = what, hint

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # A panic of the library's own code derives from BaseException.
        if kind in (Exception, ValueError, TypeError) or (kind is not None and kind.__name__ == "PanicException"):
            raise DataError(f"{self._what}: {error}", hint=self._hint) from error


def _require_words(folder: Path, own: TokenizerClass, vocabulary: Vocabulary, declared: Declared) -> None:
    """Raises DataError where a WordPiece vocabulary lacks a token that every text needs."""
    named, known = declared.texts, {token.content for token in declared.by_id.values()}
    needed = ("unk_token", "sep_token", "cls_token") if own.model == "WordPiece" else ()
    missing = [named.get(key, key) for key in needed if named.get(key) not in {*vocabulary.ids, *known}]
    if missing:
        raise DataError(
            f"{folder / 'vocab.txt'}: the vocabulary lacks {', '.join(missing)}",
            hint="A WordPiece vocabulary holds one token a line.",
        )


def _word_ids(path: Path) -> dict[str, int]:
    """Read WordPiece's vocabulary: one token in each line, whose id is the line's number from 0."""
    lines = _text(path).split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    return {line.rstrip(): i for i, line in enumerate(lines)}


def _merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise DataError(f"{path}, line {number}: expected two tokens, found {line[:40]!r}")
        merges.append((parts[0], parts[1]))
    return merges


def _first_int(value: object) -> int | None:
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})", hint="Download the file again.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json(path: Path) -> JsonObject:
    """Read the object in a JSON file; {} where there is no file."""
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
