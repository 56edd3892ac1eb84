"""Batches through mindspore.dataset."""

import json

import numpy as np
import pytest

from petrun.data.batches.buckets import plan_batches
from petrun.data.batches.collate import collate
from petrun.data.batches.pipeline import batches
from tests.data.loading import read_examples

DECODER = ("input_ids", "segment_ids", "position_ids")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("pipeline") / "rows.jsonl"
    rows = [{"input_ids": rng.integers(1, 90, int(rng.integers(2, 40))).tolist()} for _ in range(53)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_examples(path, task="lm", tokenizer=None, seq_len=64)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", [0, 3])
def test_the_pipeline_gives_the_plans_batches_in_order(examples, shuffle, start):
    plan = plan_batches(
        examples.lengths, batch_size=8, seq_len=64, order="shuffle" if shuffle else "file", seed=5
    ).epoch(1)
    made = list(batches(examples, plan, DECODER, pad_id=7, start=start))
    assert len(made) == len(plan) - start == 7 - start
    for k, batch in enumerate(made):
        expected = collate(examples, plan[start + k], DECODER, 7)
        assert batch.rows == expected.rows
        assert tuple(batch.inputs) == DECODER
        for name in DECODER:
            np.testing.assert_array_equal(batch.inputs[name], expected.inputs[name])
        np.testing.assert_array_equal(batch.targets, expected.targets)


def test_nothing_is_left_at_the_end(examples):
    plan = plan_batches(examples.lengths, batch_size=8, seq_len=64).epoch(0)
    assert list(batches(examples, plan, DECODER, start=len(plan))) == []


def test_a_pipeline_can_be_left_before_its_end(examples):
    plan = plan_batches(examples.lengths, batch_size=2, seq_len=64).epoch(0)
    stream = batches(examples, plan, DECODER)
    first = next(stream)
    stream.close()
    again = next(batches(examples, plan, DECODER))
    assert first.rows == again.rows
