"""Read tokenizers as files, and count what they make of text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from petrun.errors import DataError
from petrun.typing import JsonObject


def read_tokenizer_json(path: str) -> JsonObject:
    """Return the content of a folder's tokenizer.json, or of that file. Raises DataError where there is none, or it is damaged."""
    given = Path(path).expanduser()
    file = given / "tokenizer.json" if given.is_dir() else given
    if not file.is_file():
        raise DataError(
            f"{path}: holds no tokenizer.json",
            hint="AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes one.",
        )
    try:
        content: JsonObject = json.loads(file.read_text(encoding="utf-8"))
        content["model"]["vocab"], content["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is no tokenizer.json: {error}") from error
    return content


@dataclass(frozen=True, kw_only=True)
class TokenRate:
    """Tokens of some text."""

    tokens: int
    characters: int

    @property
    def per_character(self) -> float:
        return self.tokens / max(self.characters, 1)


def token_rate(content: JsonObject, texts: Sequence[str]) -> TokenRate:
    """Count the tokens of texts, without special ones."""
    encoded = Tokenizer.from_str(json.dumps(content)).encode_batch_fast(list(texts), add_special_tokens=False)
    return TokenRate(tokens=sum(len(row.ids) for row in encoded), characters=sum(map(len, texts)))
