"""Entities of tags. Figures are those that conlleval and the package seqeval print for these examples."""

import numpy as np
import pytest

from petrun.evaluate.entities import are_marked, entities, entity_counts
from petrun.evaluate.figures import tag_figures, tag_scores


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-LOC", [("PER", 0, 1), ("PER", 1, 2), ("LOC", 2, 3)]),
        # An I that follows nothing begins an entity.
        ("O I-PER I-PER O I-LOC", [("PER", 1, 3), ("LOC", 4, 5)]),
        ("S-PER B-LOC I-LOC E-LOC E-LOC", [("PER", 0, 1), ("LOC", 1, 4), ("LOC", 4, 5)]),
        ("O O", []),
    ],
)
def test_entities(tags, wanted):
    assert list(entities(tags.split())) == wanted


def test_the_example_of_seqeval():
    names = ("O", "B-MISC", "I-MISC", "B-PER", "I-PER")
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    guessed = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    values = []
    for row, other in zip(true, guessed, strict=True):
        labels = np.array([names.index(tag) for tag in row])
        logits = np.eye(len(names), dtype=np.float32)[[names.index(tag) for tag in other]] * 20
        values.append(tag_figures(names, labels, logits))
    metrics = tag_scores(np.arange(2), np.array(values)).metrics
    assert (metrics["entity_f1"], metrics["entity_precision"], metrics["entity_recall"]) == (0.5, 0.5, 0.5)
    assert metrics["token_accuracy"] == pytest.approx(0.8) and metrics["loss"] == pytest.approx(4.0, abs=1e-5)


def test_tags_without_a_scheme_are_entities_of_one_word():
    assert (
        are_marked(("O", "B-X")) and not are_marked(("NOUN", "VERB")) and not are_marked(("O",)) and not are_marked(())
    )
    labels, guessed = np.array([0, 1, 2, 0]), np.array([0, 1, 1, 2])
    assert entity_counts(("O", "NOUN", "VERB"), labels, guessed) == (1, 3, 2)
    assert entity_counts((), labels, guessed) == (2, 4, 4)


def test_no_tag_and_no_entity():
    none = tag_figures(("O", "B-X"), np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    outside = tag_figures(("O", "B-X"), np.array([0]), np.array([[3.0, 0.0]], np.float32))
    metrics = tag_scores(np.arange(2), np.array([none, outside])).metrics
    assert (metrics["entity_f1"], metrics["token_accuracy"]) == (0.0, 1.0)
