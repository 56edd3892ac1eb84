"""Which rows are chosen."""

import numpy as np
import pytest

from petrun.curation.selection import best, best_of_groups, cluster, parse_top, rows_wanted
from petrun.errors import ConfigError, DataError


def test_sizes_are_shares_or_numbers():
    assert parse_top("10%") == 0.1 and parse_top("5000") == 5000 and isinstance(parse_top("1"), int)
    assert rows_wanted(0.1, 59) == 5 and rows_wanted(0.3, 10) == 3 and rows_wanted(7, 10) == 7
    for wrong in ("0", "-5", "101%", "2.5", "ten"):
        with pytest.raises(ConfigError):
            parse_top(wrong)
    with pytest.raises(DataError):
        rows_wanted(0.05, 10)


def test_the_best_are_those_that_the_papers_code_takes():
    """Cherry_LLM sorts (score, index) ascending, and takes the last ones."""
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 10, 50) / 10
    expected = sorted(index for _, index in sorted((score, i) for i, score in enumerate(scores))[-12:])
    assert best(scores, 12).tolist() == expected
    assert best(scores, 12, lowest=True).tolist() == sorted(
        i for _, i in sorted((s, i) for i, s in enumerate(scores))[:12]
    )


def test_groups_give_their_best_in_turn():
    groups = np.array([0, 0, 0, 0, 1, 1, 2])
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1]
    assert best_of_groups(scores, groups, 3).tolist() == [0, 4, 6]
    assert best_of_groups(scores, groups, 5).tolist() == [0, 1, 4, 5, 6]
    assert best_of_groups(scores, groups, 2).tolist() == [0, 4]
    assert best_of_groups(scores, groups, 3, lowest=True).tolist() == [3, 5, 6]


def test_clusters_are_found_and_the_same_again():
    draw = np.random.default_rng(1)
    centres = np.eye(4) * 10
    vectors = np.concatenate([centre + draw.normal(size=(20, 4)) for centre in centres]).astype(np.float32)
    groups = cluster(vectors, 4, seed=3)
    assert [len(set(groups[i : i + 20])) for i in range(0, 80, 20)] == [1] * 4 and len(set(groups)) == 4
    assert (groups == cluster(vectors, 4, seed=3)).all()
    assert cluster(vectors[:3], 4, seed=0).tolist() == [0, 1, 2]
