"""Ranks that share the rows of an evaluation: each computes its own batches, and the figures are those of one rank."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from petrun.cluster.world import ALONE, World
from petrun.errors import DataError
from petrun.evaluate.metrics import METRICS
from petrun.evaluate.score import Scorer
from petrun.inference.evaluator import Evaluator
from tests.data.loading import read_examples
from tests.evaluate.test_score import DECODER_INPUTS, ROWS, VOCAB, Decoder


@dataclass(frozen=True, kw_only=True)
class OneOfSeveral(World):
    """A rank that keeps what it gives to the others, and gets what was put into `others`: 1 for each figure of any other row."""

    given: dict = field(default_factory=dict)
    others: dict = field(default_factory=dict)

    def summed(self, values):
        return values

    def gathered(self, rows, values, total):
        self.given.update(zip(rows.tolist(), values, strict=True))
        known = {**self.given, **self.others}
        return np.array([known.get(row, np.ones(3)) for row in range(total)])


def evaluator(examples, world, batch_size=2):
    net = Decoder()
    return Evaluator(
        loaded=SimpleNamespace(net=net, inputs=DECODER_INPUTS, pad_token_id=0),
        task="lm",
        metrics=(METRICS["loss"], METRICS["token_accuracy"]),
        examples=examples,
        prompts=None,
        tokenizer=None,
        batch_size=batch_size,
        buckets=2,
        seq_len=16,
        max_new_tokens=4,
        scorer=Scorer(net, DECODER_INPUTS, "lm"),
        world=world,
    )


def rows_of(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    lines = [{"input_ids": ids.tolist(), "labels": [-100, *labels[1:].tolist()]} for ids, labels in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_examples(path, task="lm", tokenizer=None, seq_len=16, vocab_size=VOCAB)


@pytest.mark.parametrize("size", [2, 6])
def test_ranks_share_the_rows_and_get_the_figures_of_all(mode, tmp_path, size):
    """Six ranks share four batches: two of them have no row. The rows are some of a file's, which keep their numbers there."""
    numbers = [0, 1, 3, 4, 5, 7, 8]
    examples = rows_of(tmp_path, [*ROWS[:2], ROWS[0], *ROWS[2:5], ROWS[1], *ROWS[5:]]).take(np.array(numbers))
    expected = evaluator(examples, ALONE).forward("alone")
    ranks = [OneOfSeveral(rank=rank, size=size) for rank in range(size)]
    for rank in ranks:
        evaluator(examples, rank).forward("share")
    shares = [sorted(rank.given) for rank in ranks]
    assert sorted(row for share in shares for row in share) == list(range(7)), "each row is scored by one rank"
    assert max(len(share) for share in shares) <= 2 * -(-4 // size)
    everything = {row: values for rank in ranks for row, values in rank.given.items()}
    for rank in ranks:
        rank.others.update(everything)
        found = evaluator(examples, rank).forward("together")
        assert found.rows.tolist() == expected.rows.tolist()
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6, atol=1e-7)
        assert found.hits.tolist() == expected.hits.tolist() and found.counts.tolist() == expected.counts.tolist()
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)


def test_a_rank_whose_own_rows_have_nothing_to_score_is_no_error(graph_mode, tmp_path):
    """Row 6 has no target, and one rank scores nothing else; where no rank has one, all of them fail."""
    examples = rows_of(tmp_path, ROWS)
    ranks = [OneOfSeveral(rank=rank, size=len(ROWS)) for rank in range(len(ROWS))]
    for rank in ranks:
        evaluator(examples, rank, batch_size=1).forward("share")
    assert [row for rank in ranks for row in rank.given if rank.given[row][1] == 0] == [6]
    nothing = OneOfSeveral(rank=0, size=2, others={1: np.zeros(3)})
    with pytest.raises(DataError, match="none of the 2 rows has a token"):
        evaluator(rows_of(tmp_path, [ROWS[6], ROWS[6], ROWS[0]]).take(np.arange(2)), nothing, batch_size=1).forward(
            "nothing"
        )
