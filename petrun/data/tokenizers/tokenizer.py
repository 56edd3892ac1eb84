"""Tokenise text with the tokenizer files of a Hugging Face folder, without transformers.

The tokenizer's post-processor decides which ids begin and end a text (BOS, [CLS] ... [SEP]). Truncation and padding stored in
tokenizer.json are switched off: petrun truncates and pads rows, and counts that.
"""

from __future__ import annotations

import copy
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers

from petrun.data.tokenizers.files import ParseErrors, TokenizerFiles, read_tokenizer_files
from petrun.errors import DataError

Progress = Callable[[int, int], None]
_CHUNK_ROWS = 1024
# Characters put before a text: the first for a text that begins with a letter, the second for one that begins with white space.
_LEADS = ("\n", "a", "0", ".", "\u4e00")
_BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Encoded:
    """Token ids of many texts. `ids[i]` and `types[i]` are int lists of equal length; None where all types are 0."""

    def __init__(self, ids: list[list[int]], types: list[list[int] | None], cut: list[bool]) -> None:
        self.ids, self.types, self.cut = ids, types, cut


class Tokenizer:
    """A tokenizer. Ids are plain ints; the id of a special token that it does not have is None."""

    def __init__(self, backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._truncator: tokenizers.Tokenizer | None = None
        """A copy that truncates, made when it is needed: threads that tokenise at the same time must not see a setting change."""
        self._truncating = threading.Lock()
        self.files = files
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        self.bos_id = self.token_id(files.specials.get("bos_token"), files.bos_id)
        self.eos_id = self.token_id(files.specials.get("eos_token"), files.eos_id)
        pad = self.token_id(files.specials.get("pad_token"), files.pad_id)
        # Padding is masked everywhere, so without a pad token any id of the vocabulary can be used.
        self.pad_id: int = pad if pad is not None else self.eos_id if self.eos_id is not None else 0
        self.specials: dict[str, str] = dict(files.specials)
        """bos_token, eos_token, ... -> text, as chat templates ask for them."""
        for name, index in (("bos_token", self.bos_id), ("eos_token", self.eos_id), ("pad_token", pad)):
            if name not in self.specials and index is not None:
                self.specials[name] = self.token(index)
        self.chat_template = files.chat_template
        self.digest = self._content_digest()
        self.special_texts = tuple(
            token.content for token in backend.get_added_tokens_decoder().values() if token.special
        )
        self.prefix_ids, self.suffix_ids = self._frame()
        self.unknown_id = self.token_id(getattr(backend.model, "unk_token", None) or self._unigram_unknown())
        """Id of the token for text that the vocabulary lacks; None where there is no such token."""
        self.leaves_out = self.unknown_id is None and self.drops("\U000f1d3b")
        """Characters that the vocabulary lacks give no token at all. Tested with a character that is in no vocabulary."""
        self._spaced = self._puts_space()
        added = backend.get_added_tokens_decoder().values()
        self._added = tuple(token.content for token in added)
        self._swallowing = tuple(token.content for token in added if token.rstrip)
        """Added tokens that take the white space behind them."""
        self._heads: dict[str, list[int]] = {}

    def _content_digest(self) -> str:
        """Return SHA-256 over everything that determines ids. Defaults add nothing, so that a new setting does not change digests."""
        content = repr((sorted(self.specials.items()), self.files.chat_template))
        if self.files.truncation_side != "right":
            content += f" truncation_side {self.files.truncation_side}"
        if self._backend.encode_special_tokens:
            content += " split_special_tokens"
        return hashlib.sha256(self._backend.to_str().encode() + content.encode()).hexdigest()

    def token_id(self, token: str | None, fallback: int | None = None) -> int | None:
        found = self._backend.token_to_id(token) if token else None
        return found if found is not None else fallback

    def token(self, index: int) -> str:
        """Return the token in the vocabulary's spelling; '' for an id outside it."""
        return self._backend.id_to_token(index) or ""

    def _unigram_unknown(self) -> str | None:
        """Return the unknown token of a Unigram model, which does not name it itself; None for other models."""
        return (
            self.files.specials.get("unk_token") if isinstance(self._backend.model, tokenizers.models.Unigram) else None
        )

    def drops(self, character: str) -> bool:
        """Return whether the character gives no token, tested between two letters: some tokenizers strip white space at a text's ends."""
        return self.encode(f"a{character}a", special=False) == self.encode("aa", special=False)

    def unknown_stretches(self, texts: Sequence[str]) -> list[str]:
        """Return the parts of the texts that become the unknown token, one for each."""
        rows = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            text[start:end].strip()
            for text, row in zip(texts, rows, strict=True)
            for index, (start, end) in zip(row.ids, row.offsets, strict=True)
            if index == self.unknown_id
        ]

    def is_byte_piece(self, index: int) -> bool:
        """Return whether the token is one byte of a character that SentencePiece does not know, such as <0x0A>."""
        return _BYTE_PIECE.fullmatch(self.token(index)) is not None

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the ids that the post-processor puts before and after a single text."""
        bare = self._backend.encode("a", add_special_tokens=False).ids
        framed = self._backend.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(bare) + 1):
            if bare and framed[start : start + len(bare)] == bare:
                return framed[:start], framed[start + len(bare) :]
        return [], []

    def begin_ids(self, ids: Sequence[int]) -> list[int]:
        """Return the ids before a sequence that continues with `ids`: none where the text has its BOS already."""
        count = len(self.prefix_ids)
        return [] if list(ids[:count]) == self.prefix_ids else list(self.prefix_ids)

    def _puts_space(self) -> bool:
        """Return whether the tokenizer adds a space before every text (SentencePiece's dummy prefix)."""
        first = self._backend.encode("a", add_special_tokens=False).tokens[:1]
        return bool(first) and first[0][:1] in ("\u2581", "\u0120")

    def encode_continuations(self, texts: Sequence[str], before: Sequence[str]) -> list[list[int]]:
        """Tokenise texts that follow other texts, so that the joined ids are those of the joined text.

        Inputs: `before`, the text that each text follows; only its end counts. Where a token would span the boundary, each side
        keeps separate tokens: the joined ids still decode to the joined text.
        """
        leads = [self._lead(last, text) for last, text in zip(before, texts, strict=True)]
        joined = [lead + text for lead, text in zip(leads, texts, strict=True)]
        rows = self.encode_many(joined, special=False).ids
        return [self._behind(lead, row, text) for lead, row, text in zip(leads, rows, texts, strict=True)]

    def _lead(self, before: str, text: str) -> str:
        """Return a short text that replaces `before`: the added token at its end, after which a new part of text begins, or any
        character.
        """
        for ending, rest in ((before, ""), (before.rstrip(), before[len(before.rstrip()) :])):
            tokens = self._swallowing if rest else self._added
            if tokens and ending.endswith(tokens):
                return max((token for token in tokens if ending.endswith(token)), key=len) + rest
        if not self._spaced:
            return ""
        return _LEADS[1] if text[:1].isspace() else _LEADS[0]

    def _behind(self, lead: str, row: list[int], text: str) -> list[int]:
        """Return the ids of `text` in the row of `lead` + `text`; with another lead where a token spans the boundary."""
        head = self._ids_of_lead(lead)
        if row[: len(head)] == head:
            return row[len(head) :]
        for other in _LEADS:
            head, row = self._ids_of_lead(other), self.encode(other + text, special=False)
            if row[: len(head)] == head:
                return row[len(head) :]
        return self.encode(text, special=False)

    def _ids_of_lead(self, lead: str) -> list[int]:
        if lead not in self._heads:
            self._heads[lead] = self.encode(lead, special=False) if lead else []
        return self._heads[lead]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=special).ids)

    def encode_many(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        *,
        special: bool = True,
        longest: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Tokenise texts, or pairs of texts.

        Inputs: `longest` truncates rows to so many tokens, special tokens included and kept; of a pair the longer text first.
        """
        ids: list[list[int]] = []
        types: list[list[int] | None] = []
        cut: list[bool] = []
        for start in range(0, len(texts), _CHUNK_ROWS):
            chunk = list(texts[start : start + _CHUNK_ROWS])
            rows = self._backend.encode_batch_fast(chunk, add_special_tokens=special)
            over = [longest is not None and len(row.ids) > longest for row in rows]
            if longest is not None and any(over):
                self._cut_rows(rows, chunk, over, longest, special)
            ids += [row.ids for row in rows]
            # Texts alone, without special tokens, have one type.
            types += [given if special and any(given := row.type_ids) else None for row in rows]
            cut += over
            if progress is not None:
                progress(min(start + _CHUNK_ROWS, len(texts)), len(texts))
        return Encoded(ids, types, cut)

    def encode_words(self, rows: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
        """Tokenise rows of words, without special tokens. Returns (ids, the number of the word that each is of) of every row.

        Each word is one behind a space, also for a tokenizer that makes other tokens of a word at the begin of a text: as transformers,
        which takes such rows with `add_prefix_space=True` alone.
        """
        found = []
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = [[f" {word}" for word in row] for row in rows[start : start + _CHUNK_ROWS]]
            for each in self._backend.encode_batch(chunk, is_pretokenized=True, add_special_tokens=False):
                found.append((each.ids, [word for word in each.word_ids if word is not None]))
        return found

    def _cut_rows(
        self,
        rows: list[tokenizers.Encoding],
        chunk: Sequence[Sequence[str]],
        over: list[bool],
        longest: int,
        special: bool,
    ) -> None:
        pair = isinstance(chunk[0], tuple)
        needed = self._backend.num_special_tokens_to_add(pair) if special else 0
        if longest < needed + (2 if pair else 1):
            raise DataError(
                f"seq_len {longest} leaves no room for text beside {needed} special tokens",
                hint="Choose a longer --seq-len.",
            )
        with self._truncating:
            if self._truncator is None:
                self._truncator = copy.deepcopy(self._backend)
                self._truncator.encode_special_tokens = self._backend.encode_special_tokens
            self._truncator.enable_truncation(longest, strategy="longest_first", direction=self.files.truncation_side)
            again = self._truncator.encode_batch_fast(
                [row for row, long in zip(chunk, over, strict=True) if long], add_special_tokens=special
            )
        for position, row in zip([i for i, long in enumerate(over) if long], again, strict=True):
            rows[position] = row

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special))


def load_tokenizer(folder: str | Path) -> Tokenizer | None:
    """Load the tokenizer of a Hugging Face folder; None where the folder has no tokenizer file.

    It is set up as transformers' AutoTokenizer does it, by tokenizer_class: see classes.py and special_tokens.py.
    Raises: DataError for damaged files, and for vocabulary files of a class that is not known here.
    """
    folder = Path(folder)
    files = read_tokenizer_files(folder)
    if files is None:
        return None
    with ParseErrors(f"{folder}: the tokenizer's files do not work together", "Download them again."):
        return Tokenizer(files.backend, files)
