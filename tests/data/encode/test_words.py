"""Words with tags become tokens: the first token of a word has its tag."""

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.batches.rank_share import count_rows
from petrun.data.load import load_examples
from petrun.data.settings import ExampleSettings
from petrun.data.tokenizers.tokenizer import load_tokenizer
from tests.tiny import letters, words, write_rows

ROWS = [{"words": ["bad", "film"], "tags": ["B-X", "O"]}, {"words": ["it"], "tags": ["O"]}]


def tokenizer_of(folder, backend):
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def examples_of(tmp_path, rows, tokenizer, **settings):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    known = {"task": None, "seq_len": 16, "family_tasks": ("classify", "tokens")} | settings
    return load_examples([str(path)], tokenizer, ExampleSettings(**known))


@pytest.mark.parametrize("limit", [16, 6])
def test_the_first_token_of_a_word_has_its_tag(tmp_path, limit):
    """A tokenizer of letters: a word is a space and its letters."""
    rows = examples_of(tmp_path, ROWS, tokenizer_of(tmp_path / "t", letters()), seq_len=limit)
    assert (rows.task, rows.labels, rows.num_labels, rows.stats.cut) == ("tokens", ("B-X", "O"), 2, int(limit == 6))
    assert rows[0].labels.tolist() == [0, -100, -100, -100, 1, -100, -100, -100, -100][:limit]
    assert rows[1].labels.tolist() == [1, -100, -100]


def test_words_are_those_of_add_prefix_space(tmp_path):
    backend = letters()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    want = backend.encode(["bad", "film"], is_pretokenized=True, add_special_tokens=False)
    rows = examples_of(tmp_path, ROWS, tokenizer_of(tmp_path / "t", letters()))
    assert rows[0].input_ids.tolist() == want.ids


def test_batches_are_not_shifted(tmp_path):
    rows = examples_of(tmp_path, ROWS, tokenizer_of(tmp_path / "t", words()))
    batch = collate(rows, BatchSpec(((0,), (1,)), 4), ("input_ids", "segment_ids", "token_type_ids"))
    assert batch.targets.tolist() == [[-100, 0, 1, -100], [-100, 1, -100, -100]]
    assert batch.scored == count_rows(rows).scored.sum() == rows.stats.supervised == 3


def test_tags_may_be_numbers_and_their_names_given(tmp_path):
    rows = [{"tokens": ["bad", "film"], "ner_tags": [1, 0]}]
    tokenizer = tokenizer_of(tmp_path / "t", words())
    assert examples_of(tmp_path, rows, tokenizer, labels=("O", "B-X"))[0].labels.tolist() == [-100, 1, 0, -100]
    found = examples_of(tmp_path, rows, tokenizer, task="tokens", need_target=False, num_labels=5)
    # Without targets they are the numbers of the words.
    assert found[0].labels.tolist() == [-100, 0, 1, -100] and found.num_labels == 5
    assert np.array_equal(found[0].input_ids, examples_of(tmp_path, rows, tokenizer)[0].input_ids)
