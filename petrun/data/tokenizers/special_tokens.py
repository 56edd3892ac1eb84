"""Read the tokens that a folder declares beside its vocabulary, and add them to a tokenizer.

Sources, as transformers 5.24 reads them (tokenization_utils_base.py, _from_pretrained): the *_token entries, extra_special_tokens
(formerly additional_special_tokens) and added_tokens_decoder of tokenizer_config.json. Where there is no added_tokens_decoder, also
special_tokens_map.json, added_tokens.json and the added_tokens of tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from petrun.errors import DataError
from petrun.typing import JsonObject

STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Declared:
    """Tokens by name (bos_token, ...), by id, and the special ones that have neither."""

    named: dict[str, AddedToken]
    by_id: dict[int, AddedToken]
    extra: tuple[AddedToken, ...]

    @property
    def texts(self) -> dict[str, str]:
        """Return bos_token, eos_token, ... -> the token's text."""
        return {name: token.content for name, token in self.named.items()}


def declared_tokens(
    folder: Path,
    settings: Mapping[str, object],
    special_map: Mapping[str, object],
    added: Mapping[str, object],
    stored: list[JsonObject],
    defaults: Mapping[str, str],
) -> Declared:
    """Read the tokens that the files declare.

    Inputs: the contents of tokenizer_config.json, special_tokens_map.json and added_tokens.json; the `added_tokens` of tokenizer.json;
    the class's default special tokens, for names that no file gives (a file's null stands for "none").
    Raises: DataError naming the file and the entry that is not a token.
    """
    where = folder / "tokenizer_config.json"
    values: JsonObject = {name: value for name, value in settings.items() if name.endswith("_token")}
    extra: object = settings.get(_EXTRA[0]) or settings.get(_EXTRA[1]) or []
    by_id: dict[int, AddedToken] = {}
    decoder = settings.get("added_tokens_decoder")
    if decoder is not None:
        if not isinstance(decoder, Mapping):
            raise DataError(f"{where}: added_tokens_decoder must be an object of id -> token")
        by_id = {_index(i, where): _token(token, where, f"added_tokens_decoder, {i}") for i, token in decoder.items()}
    else:
        map_file = folder / "special_tokens_map.json"
        values |= {name: value for name, value in special_map.items() if name.endswith("_token")}
        extra = _joined_extra(extra, special_map, map_file)
    if isinstance(extra, Mapping):
        # Names that only this model has: {"image_token": "<image>"}.
        values, extra = values | dict(extra), []
    if not isinstance(extra, list):
        raise DataError(f"{where}: {_EXTRA[0]} must be a list of tokens, or an object of named ones")
    extra = [_token(token, where, _EXTRA[0], special=True) for token in extra]
    if decoder is None:
        special = {_text(value) for value in values.values()} | {token.content for token in extra}
        for text, i in added.items():
            is_special = text in special
            index = _index(i, folder / "added_tokens.json")
            by_id[index] = AddedToken(text, special=is_special, normalized=not is_special)
        for entry in stored:
            by_id[entry["id"]] = _token(entry, folder / "tokenizer.json", "added_tokens")
    by_text = {token.content: token for token in by_id.values()}
    ordered = {name: values.get(name, defaults.get(name)) for name in STANDARD} | values
    named = {}
    for name, value in ordered.items():
        # Flags such as add_bos_token are not tokens.
        if value is None or isinstance(value, bool | int | float):
            continue
        token = _token(value, where, name, special=True)
        named[name] = by_text.get(token.content, token)
    return Declared(named, by_id, tuple(extra))


def add_declared(backend: Tokenizer, declared: Declared, folder: Path) -> None:
    """Add the tokens to a tokenizer that has its vocabulary, in the order of transformers.

    Raises: DataError where a token that the vocabulary lacks does not get the id that the folder declares for it.
    """
    before = {token.content for token in backend.get_added_tokens_decoder().values()}
    # Tokens that the tokenizer has already are added again, for their flags.
    adding = [token for _, token in sorted(declared.by_id.items())]
    known = before | {token.content for token in adding}
    names = set(declared.texts.values())
    for token in (*declared.named.values(), *declared.extra):
        if token.content not in known:
            adding.append(token)
            known.add(token.content)
    for token in adding:
        if token.content in names:
            token.special = True
    backend.add_tokens(adding)
    words = backend.get_vocab_size(with_added_tokens=False)
    for index, token in declared.by_id.items():
        found = backend.token_to_id(token.content)
        if token.content not in before and found is not None and words <= found != index:
            raise DataError(
                f"{folder}: the token {token.content!r} is declared with the id {index}, but the vocabulary's next free id is {found}",
                hint="added_tokens_decoder in tokenizer_config.json, or added_tokens.json, belongs to another vocabulary.",
            )


def _joined_extra(extra: object, special_map: Mapping[str, object], where: Path) -> Any:
    """Return the special tokens without a name of tokenizer_config.json, and those of special_tokens_map.json."""
    more = special_map.get(_EXTRA[0]) or (None if extra else special_map.get(_EXTRA[1])) or []
    if isinstance(extra, Mapping) or isinstance(more, Mapping):
        return {**(extra if isinstance(extra, Mapping) else {}), **(more if isinstance(more, Mapping) else {})}
    if not isinstance(more, list) or not isinstance(extra, list):
        raise DataError(f"{where}: {_EXTRA[0]} must be a list of tokens, or an object of named ones")
    return [*extra, *(token for token in more if token not in extra)]


def _token(value: object, where: Path, entry: str, special: bool | None = None) -> AddedToken:
    """Read a token. `special`: whether it is one where the entry does not say."""
    if isinstance(value, str):
        return AddedToken(value, special=True if special is None else special)
    text = _text(value)
    if text is None or not isinstance(value, Mapping):
        raise DataError(f"{where}: {entry} is no token: {str(value)[:60]!r}", hint="Download the file again.")
    flags = {name: bool(value[name]) for name in _FLAGS if value.get(name) is not None}
    if special is not None:
        flags.setdefault("special", special)
    return AddedToken(text, **flags)


def _text(value: object) -> str | None:
    found = value.get("content") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else None


def _index(value: Any, where: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {str(value)[:40]!r} is no token id", hint="Download the file again.") from None
