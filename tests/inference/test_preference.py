"""Both answers of a row in one pass: each has the log-probability that it has alone, under every method with virtual tokens too."""

import mindspore as ms
import numpy as np
import pytest

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.examples.example_set import BASE_LOG_PROBS
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.delta import find_method
from petrun.evaluate.score import RowOutputs, Scorer
from petrun.inference.preference import base_log_probs_of, log_probs, with_base_log_probs
from petrun.models.factory import load_model
from tests.data.loading import read_examples
from tests.tiny import write_base, write_rows

PAIRS = [
    {"prompt": "1+2=", "chosen": "3", "rejected": "12"},
    {"prompt": "2+2=", "chosen": "4", "rejected": "22"},
]
METHODS = {
    "lora": {"rank": 2},
    "prefix": {"tokens": 3, "middle": 5},
    "ptuning2": {"tokens": 3},
    "prompt": {"tokens": 3},
    "ptuning": {"tokens": 3, "middle": 5},
}
CASES = [
    pytest.param(family, algo, marks=() if (family, algo) in kept else pytest.mark.all_only)
    for kept in [{("gpt2", "prompt"), ("llama", "prefix"), ("bloom", "lora")}]
    for family in ("gpt2", "llama", "bloom")
    for algo in METHODS
]


def batch_of(examples, indices, length, loaded):
    spec = BatchSpec(tuple((i,) for i in indices), length)
    batch = collate(examples, spec, loaded.inputs, loaded.pad_token_id)
    return {**batch.arrays, "rows": np.array(batch.rows)}


@pytest.mark.parametrize(("family", "algo"), CASES)
def test_each_answer_is_as_likely_as_alone(tmp_path, graph_mode, family, algo):
    base = write_base(tmp_path / family, family)
    tokenizer = load_tokenizer(base)
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    pairs = read_examples(tmp_path / "pairs.jsonl", task=None, tokenizer=tokenizer, seq_len=16)
    loaded, method = load_model(base), find_method(algo)
    attached = method.attach(loaded.net, method.config(**METHODS[algo]), loaded.sites, 0)
    rng = np.random.default_rng(1)
    for parameter in loaded.net.get_parameters():
        if parameter.name in attached:
            values = rng.normal(0, 0.2, parameter.shape)
            parameter.set_data(ms.Tensor(values, parameter.dtype))
    length = int(pairs.lengths.max())
    found = log_probs(
        Scorer(loaded.net, loaded.inputs, pairs.task).outputs([batch_of(pairs, range(2), length, loaded)])
    )
    for place, name in enumerate(("chosen", "rejected")):
        rows = [{"prompt": row["prompt"], "completion": row[name]} for row in PAIRS]
        write_rows(tmp_path / f"{name}.jsonl", rows)
        one = read_examples(tmp_path / f"{name}.jsonl", task="instruct", tokenizer=tokenizer, seq_len=16)
        scorer = Scorer(loaded.net, loaded.inputs, one.task)
        alone = scorer([batch_of(one, range(2), int(one.lengths.max()), loaded)])
        np.testing.assert_allclose(found[:, place], -alone.losses, rtol=2e-5, err_msg=name)


def test_what_the_base_gave_is_found_by_row(tmp_path):
    """Rows that a file's weight repeats, in any order."""
    tokenizer = load_tokenizer(write_base(tmp_path / "gpt2", "gpt2"))
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    pairs = read_examples(tmp_path / "pairs.jsonl", task=None, tokenizer=tokenizer, seq_len=16)
    assert base_log_probs_of(pairs, np.array([0])) is None
    repeated = pairs.take(np.array([1, 0, 1]))
    values = np.array([[3.0, 1, 1, 4.0, 1, 0], [5.0, 1, 0, 6.0, 1, 0]])
    outputs = RowOutputs(rows=np.array([0, 1]), values=values, regression=False)
    kept = with_base_log_probs(repeated, outputs)
    assert kept.per_row[BASE_LOG_PROBS].tolist() == [[-5.0, -6.0], [-3.0, -4.0], [-5.0, -6.0]]
    assert base_log_probs_of(kept, np.array([0, 1])).tolist() == [[-3.0, -4.0], [-5.0, -6.0]]
    batch = collate(kept, BatchSpec(((2,), (1,)), 16), (BASE_LOG_PROBS, "input_ids"), 0)
    assert batch.inputs[BASE_LOG_PROBS].tolist() == [[-5.0, -6.0], [-3.0, -4.0]]
