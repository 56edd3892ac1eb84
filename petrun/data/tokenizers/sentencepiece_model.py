"""Read a SentencePiece model, tokenizer.model, and set up a tokenizer that splits text as SentencePiece does.

Source: sentencepiece_model.proto of SentencePiece. The set-up is that of transformers 5.24 for a folder whose class has none of its own
(convert_slow_tokenizer.py, build_tokenizer_from_spm_proto).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from petrun.errors import DataError
from petrun.typing import JsonObject

NAME = "tokenizer.model"
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_ALGORITHMS = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """An entry of the vocabulary; its id is its place in it."""

    text: str
    score: float
    kind: int
    """SentencePiece's type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""


@dataclass(frozen=True, kw_only=True)
class PieceModel:
    """What a SentencePiece model says: its vocabulary, and how a text is prepared for it."""

    algorithm: str
    """ "BPE" or "Unigram"."""
    pieces: tuple[Piece, ...]
    specials: Mapping[str, str]
    """bos_token, eos_token and unk_token that the model has."""
    unknown: int
    byte_fallback: bool
    charsmap: bytes
    """Compiled rules that normalise characters; empty: none."""
    joins_spaces: bool
    """Whether spaces around the text, and further ones within, are removed."""
    marks_spaces: bool
    """Whether a space becomes the space mark."""
    puts_space: bool
    """Whether a space is put before the text."""

    @property
    def ids(self) -> dict[str, int]:
        return {piece.text: i for i, piece in enumerate(self.pieces)}

    @property
    def declared(self) -> tuple[AddedToken, ...]:
        """Return the pieces that text is searched for before it is split; control pieces are special."""
        return tuple(
            AddedToken(piece.text, normalized=False, special=piece.kind == _CONTROL)
            for piece in self.pieces
            if piece.kind in (_CONTROL, _USER_DEFINED)
        )

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Return the merges of BPE: SentencePiece joins the neighbours whose joined piece has the highest score."""
        return _merges({piece.text: (-piece.score, i) for i, piece in self._of_kind(_NORMAL)})

    @property
    def all_merges(self) -> list[tuple[str, str]]:
        """Return the merges that Llama's and Gemma's classes use: of pieces of every kind, in the order of the vocabulary."""
        return _merges({text: (0.0, i) for text, i in self.ids.items()})

    def _of_kind(self, kind: int) -> Iterator[tuple[int, Piece]]:
        return ((i, piece) for i, piece in enumerate(self.pieces) if piece.kind == kind)

    @property
    def user_defined(self) -> list[str]:
        """Return the pieces that are always one token, longest first."""
        return sorted((piece.text for _, piece in self._of_kind(_USER_DEFINED)), key=len, reverse=True)


def _merges(ranks: Mapping[str, tuple[float, int]]) -> list[tuple[str, str]]:
    """Return every pair of tokens that joins to a token, by the rank of what it joins to; equal ones by the length of the first."""
    found = [
        (*rank, cut, token)
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return [(token[:cut], token[cut:]) for _, _, cut, token in sorted(found)]


def read_pieces(path: Path) -> PieceModel:
    """Read the file. Raises DataError for a file that is no SentencePiece model, or has neither BPE nor Unigram."""
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError:
        proto.Clear()
    if not proto.pieces:
        raise DataError(
            f"{path}: is not a SentencePiece model",
            hint="Download the file again. Some folders give this name to a list of byte ranks (tiktoken): such a tokenizer is read from "
            "tokenizer.json alone, of the model's copy for transformers.",
        )
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    algorithm = _ALGORITHMS.get(trainer.model_type, str(trainer.model_type))
    if algorithm not in ("BPE", "Unigram"):
        raise DataError(f"{path}: is a {algorithm} model; supported: BPE, Unigram")
    named = {
        "bos_token": (trainer.bos_id, trainer.bos_piece or "<s>"),
        "eos_token": (trainer.eos_id, trainer.eos_piece or "</s>"),
        "unk_token": (trainer.unk_id, trainer.unk_piece or "<unk>"),
    }
    return PieceModel(
        algorithm=algorithm,
        pieces=tuple(Piece(text=piece.piece, score=piece.score, kind=piece.type) for piece in proto.pieces),
        specials={name: text for name, (index, text) in named.items() if index >= 0},
        unknown=trainer.unk_id,
        byte_fallback=trainer.byte_fallback,
        charsmap=rules.precompiled_charsmap,
        joins_spaces=rules.remove_extra_whitespaces,
        marks_spaces=rules.escape_whitespaces,
        puts_space=rules.add_dummy_prefix,
    )


def set_up(model: PieceModel, settings: JsonObject, more: Mapping[str, int] | None = None) -> Tokenizer:
    """Set up a tokenizer that splits text as SentencePiece does.

    Inputs: `settings`, tokenizer_config.json, of which `legacy` (default true) puts the space mark before every stretch of text between
    added tokens, else before the first alone; added_tokens_decoder renames pieces. `more`: tokens behind the vocabulary, with ids, that
    no text contains.
    """
    names = _names(model, settings)
    backend = Tokenizer(_split(model, names, more or {}))
    legacy = bool(settings.get("legacy", True))
    backend.normalizer = normalizers.Sequence(_normalizers(model, legacy))
    steps: list[object] = []
    if model.puts_space:
        scheme = "always" if legacy else "first"
        steps.append(pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False))
    if model.user_defined:
        # After the space mark is put, so that these are one token wherever they stand.
        whole = "|".join(re.escape(names.get(text, text)) for text in model.user_defined)
        steps.append(pre_tokenizers.Split(Regex(whole), behavior="isolated"))
    if steps:
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    decoder: list[object] = [decoders.Replace("▁", " ")]
    if model.byte_fallback:
        decoder.append(decoders.ByteFallback())
    if model.puts_space or model.byte_fallback:
        decoder.append(decoders.Fuse())
    if model.puts_space:
        decoder.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(decoder)
    return backend


def _names(model: PieceModel, settings: JsonObject) -> dict[str, str]:
    """Return the pieces that added_tokens_decoder renames, as InternLM2's does its unused ones: old text -> new."""
    decoder = settings.get("added_tokens_decoder")
    given = decoder if isinstance(decoder, Mapping) else {}
    texts = {
        int(i): str(token.get("content", ""))
        for i, token in given.items()
        if isinstance(token, Mapping) and str(i).isdigit()
    }
    kept = {piece.text for i, piece in enumerate(model.pieces) if i not in texts}
    return {piece.text: texts[i] for i, piece in enumerate(model.pieces) if texts.get(i) and texts[i] not in kept}


def _split(model: PieceModel, names: Mapping[str, str], more: Mapping[str, int]) -> models.Model:
    if model.algorithm == "Unigram":
        pieces = [(names.get(piece.text, piece.text), piece.score) for piece in model.pieces]
        behind = [(token, float("-inf")) for token, _ in sorted(more.items(), key=lambda item: item[1])]
        return models.Unigram(vocab=[*pieces, *behind], unk_id=model.unknown, byte_fallback=model.byte_fallback)
    vocabulary = {names.get(text, text): i for text, i in model.ids.items()}
    return models.BPE(
        vocab={**vocabulary, **more},
        merges=[(left, right) for left, right in model.merges if {left, right, left + right}.isdisjoint(names)],
        unk_token=model.specials.get("unk_token"),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=bool(model.user_defined),
    )


def _normalizers(model: PieceModel, legacy: bool) -> list[object]:
    steps: list[object] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.joins_spaces:
        # Spaces alone: other white space stays.
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.marks_spaces:
        steps.append(normalizers.Replace(" ", "▁"))
    if model.puts_space and legacy:
        # Metaspace puts no mark before one that is there; SentencePiece does.
        steps.append(normalizers.Replace(Regex(r"\A▁"), "▁▁"))
    return steps
