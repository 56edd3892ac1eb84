"""Show the first rows as the net gets them, with the scored tokens marked, for --dry-run."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from petrun.data.examples.example_set import IGNORED, PICTURES, Example, ExampleSet
from petrun.data.formats.records import Array
from petrun.data.tokenizers.tokenizer import Tokenizer

_SCORED, _DIM, _BOLD, _OFF = "\x1b[32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_LONGEST = 2000
"""Characters of a row that are shown; the middle of longer ones is left out."""


def preview(examples: ExampleSet, tokenizer: Tokenizer | None, n: int = 3, colour: bool = False) -> str:
    """Return the text of the first `n` rows: scored tokens in green, all others dim; without colour the scored ones are in ⟦ ⟧.

    Control characters are shown as escapes, so a row cannot control the terminal.
    """
    return "\n".join(_row(examples, i, tokenizer, colour) for i in range(min(n, len(examples))))


def _row(examples: ExampleSet, i: int, tokenizer: Tokenizer | None, colour: bool) -> str:
    example = examples[i]
    head = f"{examples.where(i)}: "
    if examples.kind == PICTURES:
        return f"{_strong(head.strip(), colour)} {_shown(example.require_reference())}"
    if examples.is_arrays:
        arrays = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in example.arrays.items())
        return _strong(head + arrays + _label(examples, example), colour)
    count = f"{len(example.input_ids)} tokens"
    if example.labels is None:
        return f"{_strong(head + count + _label(examples, example), colour)}\n{_text(example.input_ids, None, tokenizer, colour)}"
    scored = np.zeros(len(example.labels), bool)
    # A row's first token is never predicted.
    scored[1:] = (example.labels[1:] != IGNORED) & (example.mask[1:] > 0) & (example.mask[:-1] == example.mask[1:])
    shown = [_strong(f"{head}{count}, {int(scored.sum())} scored", colour)]
    sequences = np.unique(example.mask[example.mask > 0])
    for sequence in sequences:
        mine = example.mask == sequence if len(sequences) > 1 else slice(None)
        shown.append(_text(example.input_ids[mine], scored[mine], tokenizer, colour))
    return "\n".join(shown)


def _label(examples: ExampleSet, example: Example) -> str:
    if example.label == IGNORED:
        return ""
    if isinstance(example.label, float):
        return f", label {example.label:.6g}"
    name = examples.labels[example.label] if examples.labels else str(example.label)
    return f", label {name}" + (f" ({example.label})" if examples.labels else "")


def _text(ids: Array, scored: Array | None, tokenizer: Tokenizer | None, colour: bool) -> str:
    parts: list[tuple[bool, str]] = []
    marks = [False] * len(ids) if scored is None else scored.tolist()
    # Neighbours with the same mark are decoded together: single tokens may be parts of one character.
    for mark, group in groupby(zip(marks, ids.tolist(), strict=True), key=lambda pair: bool(pair[0])):
        parts.append((mark, _decode([token for _, token in group], tokenizer)))
    shown = _shorten(parts)
    if not colour:
        return "".join(f"⟦{text}⟧" if mark else text for mark, text in shown)
    plain = _DIM if scored is not None else ""
    return "".join(f"{_SCORED if mark else plain}{text}{_OFF}" for mark, text in shown)


def _decode(ids: list[int], tokenizer: Tokenizer | None) -> str:
    return _shown(" ".join(map(str, ids)) + " " if tokenizer is None else tokenizer.decode(ids, skip_special=False))


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _shorten(parts: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Leave out the middle of every long part, so that each change of mark stays visible."""
    most = max(80, _LONGEST // max(1, len(parts)))
    half = most // 2
    return [
        (mark, text if len(text) <= most else f"{text[:half]} [... {len(text) - most} characters ...] {text[-half:]}")
        for mark, text in parts
    ]


def _strong(text: str, colour: bool) -> str:
    return f"{_BOLD}{text}{_OFF}" if colour else text
