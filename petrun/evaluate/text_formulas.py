"""Compute metrics on generated text.

Exact match and ROUGE are fractions of 1, BLEU is on sacrebleu's scale of 0 to 100.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from petrun.errors import SetupError
from petrun.evaluate.language import JIEBA_TOKENS, ROUGE_TOKENS, JiebaTokenizer, RougeTokenizer, bleu_tokenizer

ROUGE_PACKAGE = "rouge-score"


def import_sacrebleu() -> ModuleType:
    """Import the package that computes BLEU. Raises SetupError."""
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing("sacrebleu", error) from error
    package: ModuleType = sacrebleu
    return package


def import_rouge_scorer() -> ModuleType:
    """Import the package that computes ROUGE. Raises SetupError."""
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise _missing(ROUGE_PACKAGE, error) from error
    package: ModuleType = rouge_scorer
    return package


def import_jieba() -> ModuleType:
    """Import the package that finds words in Chinese, and the one that computes ROUGE. Raises SetupError."""
    import_rouge_scorer()
    try:
        import jieba
    except ImportError as error:
        raise _missing("jieba", error, "chinese") from error
    # It tells on standard error how it reads its dictionary.
    jieba.setLogLevel(logging.WARNING)
    package: ModuleType = jieba
    return package


def _missing(package: str, error: ImportError, extra: str = "metrics") -> SetupError:
    return SetupError(
        f"this metric needs the package {package}, which cannot be imported: {error}",
        hint=f"pip install petrun[{extra}]",
    )


@dataclass(frozen=True, kw_only=True)
class ReferencedAnswer:
    """The generated text of one row, and its references."""

    prompt: Hashable
    """A key that is equal for equal inputs: the prompt's text, or its token ids."""
    text: str
    reference: str
    other_references: tuple[str, ...] = ()
    """Further correct texts."""


def _references(answers: Sequence[ReferencedAnswer]) -> dict[Hashable, list[str]]:
    """Return prompt -> its distinct references, in the data's order."""
    found: dict[Hashable, dict[str, None]] = {}
    for answer in answers:
        found.setdefault(answer.prompt, {}).update(dict.fromkeys((answer.reference, *answer.other_references)))
    return {prompt: list(references) for prompt, references in found.items()}


def _distinct(answers: Sequence[ReferencedAnswer]) -> list[tuple[str, list[str]]]:
    """Return (text, references) of each distinct prompt: the text of its first row against the references of all its
    rows.

    This is the E2E challenge's protocol (Dušek et al., Comput. Speech Lang. 59, 2020): its files repeat an
    input once for each human reference, and the system answers an input once. Where all prompts differ, every
    row is an item of its own.
    """
    references = _references(answers)
    first: dict[Hashable, str] = {}
    for answer in answers:
        first.setdefault(answer.prompt, answer.text)
    return [(first[prompt].strip(), [r.strip() for r in references[prompt]]) for prompt in references]


def exact_match(answers: Sequence[ReferencedAnswer]) -> float:
    """Return the share of rows whose text equals a reference of the row's prompt, white space stripped at both ends."""
    references = {p: {r.strip() for r in rs} for p, rs in _references(answers).items()}
    return float(np.mean([a.text.strip() in references[a.prompt] for a in answers]))


def bleu(answers: Sequence[ReferencedAnswer], tokenizer: str | None = None) -> float:
    """Compute corpus BLEU over the distinct prompts, as sacrebleu does: case kept, exp smoothing.

    `tokenizer`: sacrebleu's name; None: the one for the references' script. Source: Papineni et al., ACL 2002; Post, WMT 2018.
    Raises SetupError.
    """
    return _bleu(answers, tokenizer)[0]


def bleu_signature(answers: Sequence[ReferencedAnswer]) -> str:
    """Return sacrebleu's own signature: tokeniser, references, version. Raises SetupError."""
    return _bleu(answers)[1]


def bleu_of_corpus(answers: Sequence[ReferencedAnswer]) -> Callable[[Sequence[ReferencedAnswer]], float]:
    """Return BLEU of a part of these answers, with the tokeniser that all of them together need."""
    tokenizer = bleu_tokenizer(answer.reference for answer in answers)
    return lambda part: bleu(part, tokenizer)


def _bleu(answers: Sequence[ReferencedAnswer], tokenizer: str | None = None) -> tuple[float, str]:
    """Return (score, sacrebleu's signature)."""
    name = tokenizer or bleu_tokenizer(a.reference for a in answers)
    return _corpus_score(answers, import_sacrebleu().BLEU(tokenize=name))


def _corpus_score(answers: Sequence[ReferencedAnswer], metric: Any) -> tuple[float, str]:
    """Return (score, signature) of one of sacrebleu's metrics over the distinct prompts."""
    items = _distinct(answers)
    most = max(len(references) for _, references in items)
    streams = [[refs[i] if i < len(refs) else None for _, refs in items] for i in range(most)]
    score = float(metric.corpus_score([text for text, _ in items], streams).score)
    return score, str(metric.get_signature())


def chrf(answers: Sequence[ReferencedAnswer]) -> float:
    """Compute corpus chrF over the distinct prompts, as sacrebleu does: character 6-grams, beta 2, 0 to 100. It needs no words, so it is
    the same for every script.

    Source: Popović, WMT 2015. Raises SetupError.
    """
    return _corpus_score(answers, import_sacrebleu().CHRF())[0]


def chrf_signature(answers: Sequence[ReferencedAnswer]) -> str:
    """Return sacrebleu's own signature. Raises SetupError."""
    return _corpus_score(answers, import_sacrebleu().CHRF())[1]


def ter(answers: Sequence[ReferencedAnswer], asian: bool | None = None) -> float:
    """Compute corpus TER over the distinct prompts, as sacrebleu does: edits and shifts per reference word, times 100; lower is better.

    Inputs: `asian`, whether Chinese and Japanese characters count as words, as sacrebleu's asian_support has it; None: where the references
    are in such a script. Source: Snover et al., AMTA 2006. Raises SetupError.
    """
    return _ter(answers, asian)[0]


def ter_signature(answers: Sequence[ReferencedAnswer]) -> str:
    """Return sacrebleu's own signature, which says whether characters count as words. Raises SetupError."""
    return _ter(answers)[1]


def ter_of_corpus(answers: Sequence[ReferencedAnswer]) -> Callable[[Sequence[ReferencedAnswer]], float]:
    """Return TER of a part of these answers, with the words that all of them together need."""
    asian = _counts_characters(answers)
    return lambda part: ter(part, asian)


def _ter(answers: Sequence[ReferencedAnswer], asian: bool | None = None) -> tuple[float, str]:
    asian = _counts_characters(answers) if asian is None else asian
    # sacrebleu splits characters only where it normalises.
    return _corpus_score(answers, import_sacrebleu().TER(normalized=asian, asian_support=asian))


def _counts_characters(answers: Sequence[ReferencedAnswer]) -> bool:
    """Return whether the references are Chinese or Japanese, whose words no space divides."""
    # Of Korean, which has spaces, words count; Thai and its like sacrebleu's TER does not split.
    return bleu_tokenizer((answer.reference for answer in answers), analyse=False) in ("zh", "ja-mecab")


def rouge(answers: Sequence[ReferencedAnswer], kind: str, *, words: bool = False) -> float:
    """Compute the mean over the distinct prompts of the F measure against the best of the prompt's references; kind:
    rouge1, rouge2 or rougeL.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, without stemming; on ASCII text the figures of the
    package rouge_score, on other text those of RougeTokenizer; `words`: of Chinese words count, those of JiebaTokenizer. Raises SetupError.
    """
    tokenizer = JiebaTokenizer(import_jieba()) if words else RougeTokenizer()
    scorer = import_rouge_scorer().RougeScorer([kind], tokenizer=tokenizer)
    best = [scorer.score_multi(refs, text)[kind].fmeasure for text, refs in _distinct(answers)]
    return float(np.mean(best))


def rouge_signature(answers: Sequence[ReferencedAnswer], *, words: bool = False) -> str:
    """Return the signature: tokens, stemming, version of the package."""
    tokens = f"{JIEBA_TOKENS}-{version('jieba')}" if words else ROUGE_TOKENS
    return f"tok:{tokens}|stem:no|version:{version(ROUGE_PACKAGE)}"
