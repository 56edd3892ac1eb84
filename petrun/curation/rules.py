"""Rules by which a row is dropped: of instructions, and of bitext (two sides of a translation).

A rule sees one row, and says what it found.

Sources: repeats, Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", 2021, table A1; bitext, Caswell,
Chelba and Grangier, WMT 2019, and the filters of WMT's shared task on parallel corpora (Koehn et al., 2018).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

from petrun.curation.keys import normalised
from petrun.curation.languages import UNKNOWN, LanguageTeller
from petrun.curation.parts import RowParts
from petrun.errors import SetupError

INSTRUCTIONS, BITEXT = "instructions", "bitext"

_TAG = re.compile(
    r"</?(?:a|b|br|div|font|h[1-6]|hr|i|img|li|ol|p|script|span|strong|style|table|td|tr|u|ul)\b[^<>]*>", re.IGNORECASE
)
_ENTITY = re.compile(r"&(?:amp|gt|lt|nbsp|quot|#\d{2,5}|#x[0-9a-fA-F]{2,4});")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'，。）)]+")
_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f ]\d{3})*(?:[.,]\d+)?")
_SIGN = (
    "\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+")
_RUN = re.compile(r"([^\s\d=_*#.~\-+|/\\]{1,8}?)\1{19,}")
_LEAST_UNITS = 50
_SCRIPTS = {
    **dict.fromkeys(("zh",), ("CJK",)), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL", "CJK"),
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk", "kk", "ky", "mn"), ("CYRILLIC",)), "sr": ("CYRILLIC", "LATIN"),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ug"), ("ARABIC",)), "he": ("HEBREW",), "el": ("GREEK",), "th": ("THAI",), "lo": ("LAO",),
    "km": ("KHMER",), "ka": ("GEORGIAN",), "hy": ("ARMENIAN",), "am": ("ETHIOPIC",), "ta": ("TAMIL",), "te": ("TELUGU",),
    **dict.fromkeys(("hi", "mr", "ne"), ("DEVANAGARI",)), "bn": ("BENGALI",), "kn": ("KANNADA",), "ml": ("MALAYALAM",),
}  # fmt: skip
"""Language -> first words of the Unicode names of its letters; Latin for any other."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the rules allow."""

    kind: str = INSTRUCTIONS
    min_characters: int = 1
    """Of an answer, or of each side."""
    max_characters: int = 20_000
    """Of a row's texts together."""
    max_ratio: float = 3.0
    """Of the lengths of two sides, in words and in characters of scripts without spaces."""
    languages: tuple[str, ...] = ()
    """Of instructions, those that an answer may have; of bitext, that of the source and that of the target."""
    tell: LanguageTeller | None = field(default=None, compare=False)


Finding = str
"""What a rule found; "" where nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One reason to drop a row."""

    name: str
    """The reason in reports, and its name for --without."""
    meaning: str
    find: Callable[[RowParts, Limits], Finding]
    kinds: tuple[str, ...] = (INSTRUCTIONS, BITEXT)


def first_finding(parts: RowParts, limits: Limits, rules: Sequence[Rule]) -> tuple[str, str] | None:
    """Return (rule, what it found) of the first rule that a row breaks; None for a row that breaks none."""
    for rule in rules:
        if found := rule.find(parts, limits):
            return rule.name, found
    return None


def rules_for(limits: Limits, without: Sequence[str] = ()) -> list[Rule]:
    """Return the rules for rows of this kind, but for those that are left out by name. Raises SetupError for a package that one needs."""
    found = [rule for rule in RULES if limits.kind in rule.kinds and rule.name not in without]
    if not limits.languages:
        found = [rule for rule in found if rule.name not in ("language", "script")]
    if any(rule.name == "mojibake" for rule in found):
        _badness()
    return found


def _sides(parts: RowParts) -> tuple[tuple[str, str], ...]:
    return (("the question", parts.question), ("the answer", parts.answer))


def _empty(parts: RowParts, limits: Limits) -> Finding:
    # Plain text has no question.
    required = _sides(parts) if limits.kind == BITEXT else _sides(parts)[1:]
    return next((f"{name} is empty" for name, text in required if not text.strip()), "")


def _equal(parts: RowParts, limits: Limits) -> Finding:
    same = bool(parts.question) and normalised(parts.question) == normalised(parts.answer)
    return "question and answer are equal" if same else ""


def _short(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts) if limits.kind == BITEXT else _sides(parts)[1:]:
        if len(text.strip()) < limits.min_characters:
            return f"{name} has {len(text.strip())} characters, fewer than {limits.min_characters}"
    return ""


def _long(parts: RowParts, limits: Limits) -> Finding:
    size = len(parts.question) + len(parts.answer)
    return f"{size:,} characters, more than {limits.max_characters:,}" if size > limits.max_characters else ""


@lru_cache(maxsize=1)
def _badness() -> ModuleType:
    try:
        from ftfy import badness
    except ImportError as error:
        raise SetupError(
            f"the rule mojibake needs the package ftfy, which cannot be imported: {error}",
            hint="pip install 'petrun[data]', or --without mojibake.",
        ) from error
    package: ModuleType = badness
    return package


def _mojibake(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts):
        if text.isascii():
            continue
        if "\ufffd" in text:
            return f"{name} holds U+FFFD, the mark of a character that was lost"
        if _badness().is_bad(text):
            found = _badness().BADNESS_RE.search(text)
            return f"{name} was decoded in a wrong encoding: {found.group()[:20]!r}" if found else ""
    return ""


def _controls(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts):
        bad = (
            next((ch for ch in text if unicodedata.category(ch) == "Cc" and ch not in "\n\t\r"), None)
            if not text.isprintable()
            else None
        )
        if bad is not None:
            return f"{name} holds the control character U+{ord(bad):04X}"
    return ""


def _html(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts):
        if "<" not in text and "&" not in text:
            continue
        # In code it is meant.
        bare = _CODE.sub("", text)
        found = _TAG.search(bare) or _ENTITY.search(bare)
        if found:
            return f"{name} holds HTML: {found.group()[:40]!r}"
    return ""


def units(text: str) -> list[str]:
    """Return the words of a text; of scripts without spaces, and of Korean, its characters."""
    return _UNIT.findall(text)


def _repeats(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts):
        if found := _RUN.search(text):
            return f"{name} repeats {found.group(1)[:20]!r} {len(found.group()) // len(found.group(1))} times"
        words = units(text)
        if len(words) < _LEAST_UNITS:
            continue
        for size, most in ((2, 0.20), (3, 0.18), (4, 0.16)):
            grams = Counter(zip(*(words[i:] for i in range(size)), strict=False))
            gram, count = grams.most_common(1)[0]
            share = count * sum(map(len, gram)) / sum(map(len, words))
            if count > 2 and share > most:
                return f"{name} repeats {' '.join(gram)[:40]!r} {count} times, {share:.0%} of its text"
    return ""


def _ratio(parts: RowParts, limits: Limits) -> Finding:
    one, other = len(units(parts.question)), len(units(parts.answer))
    low, high = sorted((one, other))
    # Greetings and exclamations differ freely.
    if high < 10 or high <= limits.max_ratio * low:
        return ""
    return f"lengths {one} and {other}, a ratio of {high / max(low, 1):.1f}, more than {limits.max_ratio:g}"


def _letters(parts: RowParts, limits: Limits) -> Finding:
    for name, text in _sides(parts):
        dense = [ch for ch in text if not ch.isspace()]
        # Marks that belong to a letter count as it.
        share = sum(ch.isalpha() or unicodedata.combining(ch) > 0 for ch in dense) / max(len(dense), 1)
        if len(dense) >= 5 and share < 0.5:
            return f"{name} is letters to {share:.0%}"
    return ""


def numbers_of(text: str) -> Counter[str]:
    """Return the numbers in a text, each as its digits: 1,000 and 1.000 and １０００ are 1000, and 01 is 1."""
    plain = unicodedata.normalize("NFKC", text)
    return Counter(re.sub(r"\D", "", number).lstrip("0") or "0" for number in _NUMBER.findall(plain))


def _numbers(parts: RowParts, limits: Limits) -> Finding:
    one, other = numbers_of(_URL.sub("", parts.question)), numbers_of(_URL.sub("", parts.answer))
    if one == other:
        return ""
    return f"numbers differ: {_listed(one - other)} against {_listed(other - one)}"


def _urls(parts: RowParts, limits: Limits) -> Finding:
    one, other = (Counter(url.rstrip(".,;") for url in _URL.findall(text)) for text in (parts.question, parts.answer))
    return "" if one == other else f"URLs differ: {_listed(one - other)} against {_listed(other - one)}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(list(counts.elements())[:5]) or "none"


def _expected(parts: RowParts, limits: Limits) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (name, text, languages that it may have) of each side."""
    if limits.kind == BITEXT:
        source, target = limits.languages
        return [("the source", parts.question, (source,)), ("the target", parts.answer, (target,))]
    return [("the answer", parts.answer, limits.languages)]


def _script(parts: RowParts, limits: Limits) -> Finding:
    for name, text, languages in _expected(parts, limits):
        wanted = tuple(script for language in languages for script in _SCRIPTS.get(language, ("LATIN",)))
        letters = [ch for ch in _URL.sub("", text) if ch.isalpha()]
        right = sum(unicodedata.name(ch, "").startswith(wanted) for ch in letters)
        if letters and 2 * right < len(letters):
            return f"{name} is not in the script of {', '.join(languages)}: {right} of {len(letters)} letters are"
    return ""


def _language(parts: RowParts, limits: Limits) -> Finding:
    if limits.tell is None:
        return ""
    for name, text, languages in _expected(parts, limits):
        found = limits.tell(text)
        if found != UNKNOWN and found not in languages:
            return f"{name} is in the language {found}, not {' or '.join(languages)}"
    return ""


RULES: tuple[Rule, ...] = (
    Rule(name="empty", meaning="an answer, or a side of bitext, without text", find=_empty),
    Rule(name="equal", meaning="question and answer are the same text", find=_equal),
    Rule(name="short", meaning="fewer characters than --min-chars", find=_short),
    Rule(name="long", meaning="more characters than --max-chars", find=_long),
    Rule(name="mojibake", meaning="text decoded in a wrong encoding, or with lost characters", find=_mojibake),
    Rule(name="control", meaning="control characters", find=_controls),
    Rule(name="html", meaning="HTML outside of code", find=_html),
    Rule(name="repeats", meaning="the same words again and again", find=_repeats),
    Rule(name="ratio", meaning="sides of very different lengths (--max-ratio)", find=_ratio, kinds=(BITEXT,)),
    Rule(name="letters", meaning="a side that is mostly digits and signs", find=_letters, kinds=(BITEXT,)),
    Rule(name="numbers", meaning="numbers of one side that the other lacks", find=_numbers, kinds=(BITEXT,)),
    Rule(name="urls", meaning="URLs of one side that the other lacks", find=_urls, kinds=(BITEXT,)),
    Rule(name="script", meaning="letters of another script than that of --langs", find=_script),
    Rule(name="language", meaning="another language than --langs", find=_language),
)
"""Every rule, in the order in which they are asked: the first that finds something is the reason."""
