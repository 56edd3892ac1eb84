"""Find the tokens by which a net chooses among short texts, such as the digits of a rating."""

from __future__ import annotations

from collections.abc import Sequence

from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import ConfigError


def choice_tokens(tokenizer: Tokenizer, begin: str, choices: Sequence[str]) -> tuple[list[int], tuple[int, ...]]:
    """Tokenise `begin` + each choice, as an answer in a line of its own.

    Returns: the ids that all of them begin with, and the one that each ends with. Raises ConfigError where they differ in more than that.
    """
    texts = [begin + choice for choice in choices]
    rows = tokenizer.encode_continuations(texts, ["\n"] * len(texts))
    before, last = rows[0][:-1], tuple(row[-1] for row in rows if row)
    if any(row[:-1] != before for row in rows) or len(set(last)) < len(texts):
        raise ConfigError(
            f"the tokenizer does not give {', '.join(choices)} behind {begin!r} one token each that tells them apart",
            hint="--by generated reads the answer's text.",
        )
    return before, last
