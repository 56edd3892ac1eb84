"""Find the entities that the tags of a row name, and compare them.

Source: Tjong Kim Sang and De Meulder, CoNLL-2003, whose conlleval counts an entity as right where its type and both its ends are; of tags
that break the scheme, such as an I behind an O, that script and the package seqeval 1.2 (its default mode) make an entity as well, as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from petrun.tensors import Array

Entity = tuple[str, int, int]
"""Type, first word, the word behind the last."""
_OUTSIDE = "O"
_MARKS = ("B", "I", "E", "S")


def are_marked(names: Sequence[str]) -> bool:
    """Return whether names of tags are those of a scheme such as BIO: O, and names that begin with B-, I-, E- or S-."""
    marked = [name for name in names if name != _OUTSIDE]
    return bool(marked) and all(name[:2] in {f"{mark}-" for mark in _MARKS} for name in marked)


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """Yield the entities of a row with marked tags, in order."""
    start, kind, before = 0, "", _OUTSIDE
    for i, tag in enumerate((*tags, _OUTSIDE)):
        mark, _, own = tag.partition("-")
        # An entity ends where the next begins, is outside, or is of another type, and behind E and S.
        goes_on = mark in ("I", "E") and before in ("B", "I") and own == kind
        if before != _OUTSIDE and not goes_on:
            yield kind, start, i
        if mark != _OUTSIDE and not goes_on:
            start, kind = i, own
        before = mark


def entity_counts(names: Sequence[str], labels: Array, predictions: Array) -> tuple[int, int, int]:
    """Count the entities of one row: (right, predicted, labelled). labels, predictions: (W,) classes of its words.

    Tags without a scheme are entities of one word each, but for O.
    """
    if not are_marked(names):
        # Classes beyond the names, or without any, are tags as well.
        outside = names.index(_OUTSIDE) if _OUTSIDE in names else -1
        right = np.count_nonzero((labels == predictions) & (labels != outside))
        return right, np.count_nonzero(predictions != outside), np.count_nonzero(labels != outside)
    known, found = (set(entities([names[k] for k in row.tolist()])) for row in (labels, predictions))
    return len(known & found), len(found), len(known)
