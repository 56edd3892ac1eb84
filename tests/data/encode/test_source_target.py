"""Rows for an encoder-decoder: what its encoder reads, what its decoder is given, and what it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest

from petrun.data.batches.buckets import plan_batches
from petrun.data.batches.collate import collate
from petrun.data.batches.rank_share import RankShare, count_rows
from petrun.data.encode.prompt import prompt_ids
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import ConfigError, DataError
from tests.data.loading import read_examples
from tests.tiny import ended_letters, write_rows

INPUTS = ("input_ids", "segment_ids", "decoder_input_ids")
ROWS = [{"prompt": "1+2=", "completion": "3"}, {"prompt": "10+2=", "completion": "twelve"}]
START = 7


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    ended_letters().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "<eos>"}))
    return load_tokenizer(folder)


@pytest.fixture
def read(tmp_path, tokenizer):
    def load(rows, **given):
        settings = {"task": None, "seq_len": 32, "decoder_start": START, "family_tasks": ("instruct",), **given}
        return read_examples(write_rows(tmp_path / "rows.jsonl", rows), tokenizer=tokenizer, **settings)

    return load


def batch_of(examples, **given):
    batching = plan_batches(examples.batch_lengths, batch_size=8, seq_len=32, order="file", **given)
    return collate(examples, batching.epoch(0)[0], INPUTS, pad_id=0)


def test_a_batch(read, tokenizer):
    """Each source and each target ends with the end of text; the decoder is given the target one token late, behind its start."""
    examples = read(ROWS)
    batch = batch_of(examples)
    sources = [tokenizer.encode(row["prompt"]) for row in ROWS]
    targets = [tokenizer.encode(row["completion"]) for row in ROWS]
    assert [row[-1] for row in (*sources, *targets)] == [tokenizer.eos_id] * 4
    assert list(batch.inputs) == list(INPUTS) and batch.shape == (2, 8)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        assert batch.inputs["input_ids"][i].tolist() == source + [0] * (8 - len(source))
        assert batch.inputs["segment_ids"][i].tolist() == [1] * len(source) + [0] * (8 - len(source))
        assert batch.inputs["decoder_input_ids"][i].tolist() == [START, *target[:-1]] + [0] * (8 - len(target))
        assert batch.targets[i].tolist() == target + [-100] * (8 - len(target))
    stats, counts = examples.stats, count_rows(examples)
    assert batch.scored == stats.supervised == counts.scored.sum() == sum(map(len, targets))
    assert stats.eos_supervised == 2 and stats.tokens == counts.tokens.sum() == sum(map(len, sources + targets)) + 2


def test_source_and_target_are_cut_each_by_itself(read, tokenizer):
    """Cut before the end of text, which stays, as transformers cuts them."""
    examples = read([{"prompt": "abcdefgh", "completion": "xyz"}, {"prompt": "a", "completion": "uvwxyz"}], seq_len=5)
    batch = batch_of(examples)
    texts = [tokenizer.decode(row.tolist()) for row in batch.inputs["input_ids"]]
    assert texts == ["abcd", "a"] and examples.stats.cut == 2 and examples.stats.eos_supervised == 2
    assert [tokenizer.decode(row[row != -100].tolist()) for row in batch.targets] == ["xyz", "uvwx"]


def test_prompts_for_generation_are_the_sources(read, tokenizer):
    rows = [{"prompt": "1+2=", "completion": ["3", "three"]}]
    prompts = read(rows, for_generation=True)
    assert not prompts.encoder_decoder
    row, source = prompts[0], tokenizer.encode("1+2=")
    assert (row.input_ids.tolist(), row.prompt_length) == (source, len(source))
    assert (row.reference, row.other_references) == ("3", ("three",))
    plain = Template(name="plain", text=BUILTIN["plain"])
    assert prompt_ids("1+2=", tokenizer, plain, is_source=True) == source
    trained = read(rows)[0]
    assert trained.input_ids[: trained.prompt_length].tolist() == source


def test_token_ids(read):
    rows = [
        {"input_ids": [5, 6, 9, 0], "attention_mask": [1, 1, 1, 0], "labels": [8, 1]},
        {"input_ids": [4], "labels": [3, 8, 1, -100]},
    ]
    batch = batch_of(read(rows))
    assert batch.inputs["input_ids"][:, :4].tolist() == [[5, 6, 9, 0], [4, 0, 0, 0]]
    assert batch.inputs["decoder_input_ids"][:, :4].tolist() == [[START, 8, 0, 0], [START, 3, 8, 0]]
    assert batch.targets[:, :4].tolist() == [[8, 1, -100, -100], [3, 8, 1, -100]]
    prompts = read(rows, for_generation=True)
    assert [prompts[i].input_ids.tolist() for i in range(2)] == [[5, 6, 9], [4]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input_ids": [4], "labels": [3, -100, 1]}, "line 1: labels holds -100 before its last token"),
        ({"input_ids": [4], "attention_mask": [0], "labels": [3]}, "line 1: the source holds no tokens"),
        ({"input_ids": [4], "labels": [300]}, "labels holds the id 300"),
        ({"input_ids": [4], "attention_mask": [1, 1], "labels": [3]}, "attention_mask has 2 entries"),
    ],
)
def test_token_ids_that_are_refused(read, row, words):
    with pytest.raises(DataError, match=words):
        read([row], vocab_size=258, task="instruct")


def test_conversations_are_refused(read):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(ConfigError, match="the template chatml marks the turns of a conversation"):
        read([row], template="chatml")
    with pytest.raises(ConfigError, match="the template chatml marks the turns"):
        read([{"instruction": "a", "output": "b"}], template="chatml")


def test_a_prompt_under_a_chat_template_is_refused(tokenizer):
    with pytest.raises(DataError, match="an encoder-decoder reads a source"):
        prompt_ids("a", tokenizer, Template(name="chatml", text=BUILTIN["chatml"]), is_source=True)


def test_every_length_of_sources_has_one_of_targets():
    """Given long targets beside long sources alone: batches of short sources are not padded for them."""
    sources = np.array([3, 5, 30, 31, 60, 61])
    targets = np.array([2, 9, 1, 4, 40, 3])
    lengths = np.stack([sources, targets], axis=1)
    batching = plan_batches(lengths, batch_size=2, seq_len=64, buckets=3)
    assert (batching.buckets, batching.target_buckets) == ((8, 32, 64), (16, 16, 40))
    plan = batching.epoch(0)
    assert sorted(plan.shapes) == [(2, 8, 16), (2, 32, 16), (2, 64, 40)] == list(batching.shapes())
    assert batching.tokens == lengths.sum() and batching.padding() == 1 - lengths.sum() / 352
    for k in range(len(plan)):
        rows = list(plan[k].rows)
        assert (lengths[rows] <= plan[k].shape[1:]).all()
        assert RankShare(index=1, parts=2).of(plan[k]) == replace(plan[k], units=plan[k].units[1:])
    with pytest.raises(ConfigError, match="--pack: an encoder-decoder reads every source by itself"):
        plan_batches(lengths, batch_size=2, seq_len=64, pack=True)
