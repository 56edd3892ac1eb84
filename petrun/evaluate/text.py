"""Tokens -> text as they come: never half a character, and nothing of a string at which the text is to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\ufffd"
"""What a decoder writes for bytes that are no character, or none yet."""


class TextStream:
    """The text of one answer, piece by piece; the pieces together are what decoding all tokens gives, up to the stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._sent = ""
        self.stopped = False
        """A stop string came."""

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._sent

    def push(self, token: int) -> str:
        """What may be shown now that this token has come."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        whole = self._decode(self._tokens)
        found = self._first_stop(whole)
        if found is not None:
            self.stopped = True
            return self._give(whole[:found])
        whole = whole.rstrip(_HALF)
        return self._give(whole[: len(whole) - self._begun(whole)])

    def end(self) -> str:
        """What was held back, once no token follows."""
        return "" if self.stopped else self._give(self._decode(self._tokens))

    def _give(self, whole: str) -> str:
        """The part of `whole` that was not given out. A decoder may still change what it wrote (a space before a comma): then wait."""
        if len(whole) <= len(self._sent) or not whole.startswith(self._sent):
            return ""
        piece = whole[len(self._sent) :]
        self._sent = whole
        return piece

    def _first_stop(self, whole: str) -> int | None:
        # None can begin before what was given out: that much was never held back for it.
        places = [place for place in (whole.find(text, len(self._sent)) for text in self._stop) if place >= 0]
        return min(places, default=None)

    def _begun(self, whole: str) -> int:
        """Length of the longest end of `whole` that a stop string begins with."""
        longest = 0
        for text in self._stop:
            for size in range(min(len(text) - 1, len(whole)), longest, -1):
                if whole.endswith(text[:size]):
                    longest = size
                    break
        return longest
