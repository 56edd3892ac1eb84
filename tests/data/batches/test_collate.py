"""What the net gets: padding, segments, positions, shifted targets."""

import json

import numpy as np
import pytest

from petrun.data.batches.buckets import BatchSpec, plan_batches
from petrun.data.batches.collate import collate, prompt_batch
from petrun.errors import DataError
from tests.data.loading import read_examples

DECODER = ("input_ids", "segment_ids", "position_ids")
BERT = ("input_ids", "segment_ids", "token_type_ids")


def load(write, rows, **given):
    return read_examples(write("rows.jsonl", rows), **{"task": None, "tokenizer": None, "seq_len": 32, **given})


def spec(*units, length):
    return BatchSpec(tuple(unit if isinstance(unit, tuple) else (unit,) for unit in units), length)


def test_a_decoders_batch(write):
    examples = load(write, [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9]}])
    batch = collate(examples, spec(0, 1, length=4), DECODER, pad_id=1)
    assert list(batch.inputs) == list(DECODER)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 1], [8, 9, 1, 1]]
    assert batch.inputs["segment_ids"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, -100, -100], [9, -100, -100, -100]]
    assert (batch.rows, batch.scored, batch.tokens, batch.shape) == ((0, 1), 3, 5, (2, 4))
    assert all(array.dtype == np.int32 for array in batch.arrays.values())
    assert list(batch.arrays) == [*DECODER, "targets"]


def test_padding_in_the_data_is_respected(write):
    rows = [
        {"input_ids": [0, 0, 8, 9, 3], "attention_mask": [0, 0, 1, 1, 1]},
        {"input_ids": [4, 5, 0, 0, 0], "attention_mask": [1, 1, 0, 0, 0]},
    ]
    batch = collate(load(write, rows), spec(0, 1, length=8), DECODER, pad_id=0)
    assert batch.inputs["segment_ids"].tolist() == [[0, 0, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    # cumsum(mask) - 1, at least 0
    assert batch.inputs["position_ids"].tolist()[0][:5] == [0, 0, 0, 1, 2]
    # No prediction is made from padding: 8 at position 2 is not a target of position 1.
    assert batch.targets.tolist() == [[-100, -100, 9, 3, -100, -100, -100, -100], [5, *[-100] * 7]]


def test_packed_rows_do_not_see_each_other(write):
    rows = [
        {"input_ids": [5, 6, 7]},
        {"input_ids": [0, 8, 9], "attention_mask": [0, 1, 1]},
        {"input_ids": [3, 4], "labels": [3, -100]},
    ]
    batch = collate(load(write, rows), spec((0, 1, 2), length=9), DECODER, pad_id=0)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3, 4, 0, 0]]
    assert batch.inputs["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 3, 3, 0, 0]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, -100, 9, -100, -100, -100, -100, -100]]
    assert batch.rows == (0, 1, 2)


def test_packing_scores_what_single_rows_score(write):
    rng = np.random.default_rng(0)
    rows = [{"input_ids": rng.integers(1, 50, int(rng.integers(2, 20))).tolist()} for _ in range(60)]
    examples = load(write, rows)
    pairs = {}
    for pack in (False, True):
        batching = plan_batches(examples.lengths, batch_size=4, seq_len=32, pack=pack)
        found = []
        for k in range(len(plan := batching.epoch(0))):
            batch = collate(examples, plan[k], DECODER)
            ids, positions = batch.inputs["input_ids"], batch.inputs["position_ids"]
            b, t = np.nonzero(batch.targets != -100)
            found += list(zip(ids[b, t].tolist(), positions[b, t].tolist(), batch.targets[b, t].tolist(), strict=True))
        pairs[pack] = sorted(found)
    assert pairs[True] == pairs[False]
    assert len(pairs[True]) == examples.stats.supervised


def test_a_classifiers_batch(write):
    rows = [
        {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1], "label": 1},
        {"input_ids": [2, 3], "label": 0},
    ]
    batch = collate(load(write, rows), spec(1, 0, length=8), BERT, pad_id=9)
    assert batch.inputs["input_ids"].tolist() == [[2, 3, 9, 9, 9, 9, 9, 9], [2, 5, 3, 6, 3, 9, 9, 9]]
    assert batch.inputs["token_type_ids"].tolist() == [[0] * 8, [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch.targets.tolist() == [0, 1]
    assert (batch.rows, batch.scored) == ((1, 0), 2)


def test_rows_without_labels(write):
    examples = load(write, [{"input_ids": [2, 3]}], task="classify", need_target=False)
    assert collate(examples, spec(0, length=8), BERT).targets.tolist() == [-100]


def test_array_batches(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(3, 2), y=np.arange(3), label=[2, 1, 0])
    examples = read_examples(tmp_path / "a.npz", task=None, tokenizer=None, seq_len=1)
    batch = collate(examples, spec(2, 0, length=0), ())
    assert {name: array.tolist() for name, array in batch.inputs.items()} == {"x": [[4, 5], [0, 1]], "y": [2, 0]}
    assert (batch.inputs["x"].dtype, batch.targets.tolist(), batch.tokens) == (np.float32, [0, 2], 2)
    assert list(collate(examples, spec(0, length=0), ("y", "x")).inputs) == ["y", "x"]
    with pytest.raises(DataError, match="no array 'z', which the model takes") as caught:
        collate(examples, spec(0, length=0), ("z",))
    assert caught.value.hint == "Arrays found: x, y"


def test_an_input_that_tokens_do_not_have(write):
    with pytest.raises(DataError, match="the model takes the input 'pixels', which tokenised rows do not have"):
        collate(load(write, [{"input_ids": [1, 2]}]), spec(0, length=8), ("pixels",))


def test_prompts_end_together(write):
    examples = load(write, [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}], for_generation=True, task="lm")
    batch = prompt_batch(examples, [0, 1], pad_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [3, 3, 8]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert prompt_batch(examples, [1], pad_id=3, length=4)["input_ids"].tolist() == [[3, 3, 3, 8]]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2"])
def test_the_reference_batches_come_through_unchanged(shared, write, family):
    """Rows, mask and targets of the batches that PyTorch computed its numbers on."""
    from safetensors.numpy import load_file

    stored = load_file(shared / f"oracle/cases/{family}/batch.safetensors")
    rows = [
        {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "labels": label.tolist()}
        for ids, mask, label in zip(stored["input_ids"], stored["attention_mask"], stored["labels"], strict=True)
    ]
    examples = load(write, json.loads(json.dumps(rows)))
    plan = plan_batches(examples.lengths, batch_size=3, seq_len=64, order="file").epoch(0)
    batch = collate(examples, plan[0], BERT if family == "bert" else DECODER)
    width = stored["input_ids"].shape[1]
    np.testing.assert_array_equal(batch.inputs["input_ids"][:, :width], stored["input_ids"])
    np.testing.assert_array_equal(batch.inputs["segment_ids"][:, :width], stored["attention_mask"])
    assert not batch.inputs["segment_ids"][:, width:].any()
    if family == "bert":
        np.testing.assert_array_equal(batch.targets, stored["labels"])
    else:
        np.testing.assert_array_equal(batch.targets[:, : width - 1], stored["labels"][:, 1:])
        assert (batch.targets[:, width - 1 :] == -100).all()
