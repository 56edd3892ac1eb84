"""Convert tokens to text as they come: never half a character, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.evaluate.stop_strings import StopStrings

_HALF = "\ufffd"
"""The character that a decoder writes for bytes that are not a character, or not yet."""


class TextStream:
    """The text of one answer, part by part; the parts together equal the decoded tokens, up to the stop string.

    A run of SentencePiece's byte tokens (<0x0A>) is text only as a whole, so its text waits for a token of another kind. Where a decoder
    changes text that was returned already, the stream continues from the first character that differs.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        """Inputs: `decode`, a Tokenizer's method, which then names its byte tokens, or any other function of ids."""
        self._decode = decode
        owner = getattr(decode, "__self__", None)
        self._is_byte_piece = owner.is_byte_piece if isinstance(owner, Tokenizer) else lambda _: False
        self._stop = StopStrings(stop)
        self._tokens: list[int] = []
        self._sent = ""
        """Text that the reader has seen, without the part that a decoder has changed since."""
        self._text = ""
        self.stopped = False
        """A stop string came."""

    @property
    def text(self) -> str:
        """The returned part of the answer, without text that a decoder took back."""
        return self._text

    def push(self, token: int) -> str:
        """Take a token, and return the text that may be shown now."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        # A stop string cannot end in text that was returned already: its beginning was held back.
        found = self._stop.find(text, max(0, self._same(text) - self._stop.longest + 1))
        if found is not None:
            self.stopped = True
            return self._give(text[:found])
        if self._is_byte_piece(token):
            return ""
        text = text.rstrip(_HALF)
        return self._give(text[: len(text) - self._stop.begun(text)])

    def end(self) -> str:
        """Return the text that was held back, once no token follows."""
        return "" if self.stopped else self._give(self._decode(self._tokens))

    def _give(self, text: str) -> str:
        """Return the part of `text` after the first character in which it differs from the returned text."""
        self._text = text
        same = self._same(text)
        if same == len(text):
            return ""
        self._sent = text
        return text[same:]

    def _same(self, text: str) -> int:
        """Count the characters of `text` that were returned already."""
        if text.startswith(self._sent):
            return len(self._sent)
        pairs = enumerate(zip(text, self._sent, strict=False))
        return next((i for i, (now, before) in pairs if now != before), len(text))
