"""Parts have the sizes that were asked for, and no question is in two of them."""

import numpy as np
import pytest

from petrun.curation.splitting import divide, parse_parts, part_sizes
from petrun.errors import ConfigError, DataError


def test_shares_and_numbers_give_sizes():
    assert part_sizes(parse_parts("train=0.9,eval=0.1"), 1000) == {"train": 900, "eval": 100}
    assert part_sizes(parse_parts("train=1,eval=50"), 1000) == {"train": 950, "eval": 50}
    assert part_sizes(parse_parts("train=0.5, dev=20, test=30"), 100) == {"train": 25, "dev": 20, "test": 30}


def test_shares_of_all_rows_leave_none_out():
    for rows in range(2, 200):
        for shares in ({"train": 0.9, "eval": 0.1}, {"a": 0.5, "b": 0.5}, {"a": 0.8, "b": 0.1, "c": 0.1}):
            assert sum(part_sizes(shares, rows).values()) == rows
    assert part_sizes({"train": 0.9, "eval": 0.1}, 25) == {"train": 22, "eval": 3}


@pytest.mark.parametrize(
    "text", ["train=0.9", "train,eval=2", "a=0,b=1", "a=0.5,a=0.5", "a=1.5,b=2", "../a=0.5,b=0.5", "dropped=0.5,b=0.5"]
)
def test_wrong_parts_are_refused(text):
    with pytest.raises(ConfigError):
        parse_parts(text)


def test_too_many_rows_are_refused():
    with pytest.raises(ConfigError, match="asks for 200 rows and more, and there are 100"):
        part_sizes({"a": 200.0, "b": 0.5}, 100)
    with pytest.raises(ConfigError, match=r"add up to 1\.1"):
        part_sizes({"a": 0.6, "b": 0.5}, 100)


def test_equal_questions_stay_together():
    keys = np.random.default_rng(0).integers(0, 300, 1000).tolist()
    found = divide(keys, {"train": 0.9, "eval": 0.1}, seed=1)
    train, evaluated = ({key for key, part in zip(keys, found, strict=True) if part == number} for number in (0, 1))
    assert not train & evaluated
    # A part ends with the first group that fills it.
    assert 100 <= (found == 1).sum() <= 110 and (found >= 0).all()
    assert (found == divide(keys, {"train": 0.9, "eval": 0.1}, seed=1)).all()
    assert (found != divide(keys, {"train": 0.9, "eval": 0.1}, seed=2)).any()


def test_one_question_cannot_be_split():
    with pytest.raises(DataError, match="part 'train' would hold no row: 1 different questions in 10 rows"):
        divide([7] * 10, {"train": 0.9, "eval": 0.1}, seed=0)
