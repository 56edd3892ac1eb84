"""Append the pieces of one tokenizer.json to another, so that old ids and the ids of plain ASCII text stay what they are.

A piece is taken where it holds a character beyond ASCII and the base does not have it: text of ASCII alone then has the same ids as before.
How a piece gets into use depends on the model:

    BPE        a merge of the two tokens that the merges so far leave of it, behind all others; a single character needs none
    WordPiece  the longest match finds it at once
    Unigram    its own score, as trained, on the scale of log probabilities

Ids of new pieces follow the highest id that is taken, added tokens included.
Source: Cui, Yang and Yao, "Efficient and Effective Text Encoding for Chinese LLaMA and Alpaca", 2023, which gives Unigram pieces the
score 0: that is higher than any trained one, and always wins.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from petrun.errors import DataError
from petrun.typing import JsonObject

_MARKS = ("\u2581", "##")
"""What stands for a space before, and for a continued word, in the spelling of pieces."""


@dataclass(frozen=True, kw_only=True)
class NewPiece:
    """A piece that was appended."""

    id: int
    text: str
    """In the vocabulary's spelling."""
    old_ids: tuple[int, ...]
    """The tokens that the base cut it into; () where it knows nothing of it."""


@dataclass(frozen=True, kw_only=True)
class ExtendedTokenizer:
    """A tokenizer.json with new pieces."""

    content: JsonObject = field(repr=False)
    pieces: tuple[NewPiece, ...]
    known: int
    """Pieces that the base had already."""
    ascii: int
    """Pieces of ASCII alone, which were left out."""
    unreachable: int
    """BPE pieces that no two tokens of the base's merges make."""


def extend_tokenizer(base: JsonObject, trained: JsonObject) -> ExtendedTokenizer:
    """Append the pieces of `trained` to `base`, both contents of a tokenizer.json. Raises DataError for models that differ in kind."""
    kind, other = base["model"].get("type"), trained["model"].get("type")
    if kind != other or kind not in ("BPE", "WordPiece", "Unigram"):
        raise DataError(
            f"the base's tokenizer is {kind}, and the other one {other}: pieces can be appended to one of the same kind",
            hint="petrun vocab train --base B trains one of the base's kind.",
        )
    old = Tokenizer.from_str(_text(base))
    content = copy.deepcopy(base)
    ids = _ids(content["model"], kind) | {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    if kind == "Unigram":
        if max(ids.values()) >= len(content["model"]["vocab"]):
            raise DataError(
                "the base's added tokens stand behind its Unigram pieces, so no piece can be appended without moving them"
            )
    else:
        # Added tokens are numbered behind the vocabulary when the file is read, unless the vocabulary has them.
        content["model"]["vocab"] = dict(sorted(ids.items(), key=lambda item: item[1]))
    byte_level = _is_byte_level(base)
    candidates = [piece for piece, _ in sorted(_ids(trained["model"], kind).items(), key=lambda item: item[1])]
    specials = {token["content"] for token in trained.get("added_tokens") or []}
    new = [piece for piece in candidates if piece not in specials and _beyond_ascii(piece, byte_level)]
    fresh = [piece for piece in new if piece not in ids]
    made = _Appender(content["model"], kind, ids, trained["model"])
    pieces = [
        NewPiece(id=made.append(piece), text=piece, old_ids=_old_ids(piece, old, made, byte_level))
        for piece in fresh
        if made.fits(piece)
    ]
    if not pieces:
        raise DataError(
            "no piece is new: the base has all that hold a character beyond ASCII",
            hint="Train a larger one, or on other text.",
        )
    return ExtendedTokenizer(
        content=content,
        pieces=tuple(pieces),
        known=len(new) - len(fresh),
        ascii=len(candidates) - len(new),
        unreachable=len(fresh) - len(pieces),
    )


def _text(content: JsonObject) -> str:
    return json.dumps(content, ensure_ascii=False)


def _ids(model: JsonObject, kind: str) -> dict[str, int]:
    vocab = model["vocab"]
    return {piece: i for i, (piece, _) in enumerate(vocab)} if kind == "Unigram" else dict(vocab)


def _is_byte_level(content: JsonObject) -> bool:
    return '"ByteLevel"' in _text({key: content.get(key) for key in ("pre_tokenizer", "decoder")})


def _byte_of() -> dict[str, int]:
    """Return the byte that each sign of a byte-level vocabulary stands for. Source: bytes_to_unicode of GPT-2's encoder.py."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    found = {chr(byte): byte for byte in kept}
    others = [byte for byte in range(256) if byte not in set(kept)]
    return found | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_of()


def _beyond_ascii(piece: str, byte_level: bool) -> bool:
    if byte_level:
        return any(_BYTE_OF.get(sign, 0) >= 0x80 for sign in piece)
    return not piece.replace(_MARKS[0], "").isascii()


class _Appender:
    """Appends pieces to a model one by one."""

    def __init__(self, model: JsonObject, kind: str, ids: dict[str, int], trained: JsonObject) -> None:
        self.model, self.kind, self.ids = model, kind, dict(ids)
        self._next = max(ids.values()) + 1
        self._scores = {piece: score for piece, score in trained["vocab"]} if kind == "Unigram" else {}
        merges: Sequence[Any] = model.get("merges", [])
        # Older files write a merge as one text with a space.
        self._joined = bool(merges) and isinstance(merges[0], str)
        self.base_ranks = {self._pair(merge): rank for rank, merge in enumerate(merges)}
        self._ranks = dict(self.base_ranks)

    @staticmethod
    def _pair(merge: Any) -> tuple[str, str]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        return left, right

    def fits(self, piece: str) -> bool:
        """Return whether the piece can come into use."""
        return self.kind != "BPE" or len(cut(piece, self._ranks)) <= 2

    def append(self, piece: str) -> int:
        """Append a piece, and return its id."""
        found, self._next = self._next, self._next + 1
        if self.kind == "Unigram":
            self.model["vocab"].append([piece, self._scores[piece]])
        else:
            self.model["vocab"][piece] = found
        parts = cut(piece, self._ranks) if self.kind == "BPE" else [piece]
        if len(parts) == 2:
            self._ranks[parts[0], parts[1]] = len(self._ranks)
            self.model["merges"].append(" ".join(parts) if self._joined else parts)
        return found


def cut(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Cut a text into tokens by BPE merges: the pair with the lowest rank first, the leftmost of equal ones."""
    parts = list(piece)
    while len(parts) > 1:
        rank, place = min((ranks.get((parts[i], parts[i + 1]), len(ranks)), i) for i in range(len(parts) - 1))
        if rank == len(ranks):
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _old_ids(piece: str, old: Tokenizer, made: _Appender, byte_level: bool) -> tuple[int, ...]:
    if byte_level:
        vocabulary = old.get_vocab()
        found = [vocabulary.get(part) for part in cut(piece, made.base_ranks)]
        return tuple(i for i in found if i is not None)
    # The mark of a continued word has no form of its own in text.
    text = piece.removeprefix(_MARKS[1]).replace(_MARKS[0], " ").strip()
    unknown = old.token_to_id(made.model.get("unk_token") or "") if made.kind != "Unigram" else made.model.get("unk_id")
    # A space alone, which is put before every text, says nothing of the piece.
    silent = {unknown, old.token_to_id(_MARKS[0])}
    return tuple(i for i in old.encode(text, add_special_tokens=False).ids if i not in silent)
