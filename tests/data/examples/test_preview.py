"""The first rows, with what is scored set apart."""

import numpy as np

from petrun.data.examples.preview import preview
from tests.data.loading import read_examples


def test_the_scored_part_stands_out(write, bpe):
    path = write("a.jsonl", [{"prompt": "the dog?", "completion": " 日本 yes"}] * 5)
    examples = read_examples(path, task=None, tokenizer=bpe, seq_len=64)
    count = len(bpe.encode(" 日本 yes")) + 1
    assert (
        preview(examples, bpe, 1)
        == f"{path}, line 1: {len(examples[0].input_ids)} tokens, {count} scored\nthe dog?⟦ 日本 yes<|im_end|>⟧"
    )
    assert preview(examples, bpe, 3).count(" scored\n") == 3
    coloured = preview(examples, bpe, 1, colour=True)
    assert "\x1b[2mthe dog?\x1b[0m\x1b[32m 日本 yes<|im_end|>\x1b[0m" in coloured


def test_control_characters_do_not_reach_the_terminal(write, bpe):
    path = write("a.jsonl", [{"prompt": "\x1b[2Jthe", "completion": "\x07"}])
    shown = preview(read_examples(path, task=None, tokenizer=bpe, seq_len=64), bpe, 1)
    assert "\x1b" not in shown and "\x07" not in shown
    assert "\\x1b[2Jthe" in shown


def test_classes_and_bare_ids_and_arrays(write, word_piece, tmp_path):
    labelled = read_examples(write("a.tsv", "good film\tpos\nbad\tneg\n"), task=None, tokenizer=word_piece, seq_len=64)
    assert preview(labelled, word_piece, 1).endswith("line 1: 4 tokens, label pos (1)\n[CLS] good film [SEP]")
    bare = read_examples(
        write("b.jsonl", [{"input_ids": [5, 6], "labels": [-100, 6]}]), task=None, tokenizer=None, seq_len=8
    )
    assert preview(bare, None, 1).endswith("2 tokens, 1 scored\n5 ⟦6 ⟧")
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 3)), label=[1, 0])
    arrays = read_examples(tmp_path / "c.npz", task=None, tokenizer=None, seq_len=8)
    assert preview(arrays, None, 2).splitlines()[0].endswith("row 1: x float32[3], label 1")


def test_long_rows_are_shortened_in_the_middle(write, bpe):
    path = write("a.jsonl", [{"prompt": "the dog " * 2000, "completion": " yes"}])
    shown = preview(read_examples(path, task=None, tokenizer=bpe, seq_len=99999), bpe, 1)
    assert len(shown) < 2500
    assert "characters ...]" in shown and shown.endswith("⟦ yes<|im_end|>⟧")
