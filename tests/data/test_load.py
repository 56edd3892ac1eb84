"""Rows -> token ids and labels, through load_examples."""

import json

import numpy as np
import pytest

from petrun.data.examples.example_set import IGNORED, scramble, split
from petrun.errors import ConfigError, DataError
from tests.data.loading import read_examples


def load(path, tokenizer, **given):
    return read_examples(path, **{"task": None, "tokenizer": tokenizer, "seq_len": 64, **given})


def test_classification(write, word_piece):
    rows = [{"sentence": "good film", "label": "pos"}, {"sentence": "a bad movie .", "label": "neg"}]
    examples = load(write("a.jsonl", rows), word_piece)
    assert (examples.task, examples.kind, examples.labels, examples.num_labels) == (
        "classify",
        "text",
        ("neg", "pos"),
        2,
    )
    assert [x.input_ids.tolist() for x in examples] == [word_piece.encode(row["sentence"]) for row in rows]
    assert [x.label for x in examples] == [1, 0]
    assert examples[0].labels is None
    assert examples.lengths.tolist() == [4, 6]
    assert examples.columns == ("sentence", "label")
    assert examples.where(1).endswith("a.jsonl, line 2")
    assert [examples[-1].row, examples[1].row] == [1, 1]


def test_pairs(write, word_piece):
    rows = [{"premise": "the film is good", "hypothesis": "a bad film", "label": 2}] + [
        {"premise": "good", "hypothesis": "bad", "label": i} for i in range(2)
    ]
    examples = load(write("a.jsonl", rows), word_piece, seq_len=8)
    assert examples.kind == "pair"
    assert examples.stats.cut == 1
    assert [word_piece.token(i) for i in examples[0].input_ids] == [
        "[CLS]",
        "the",
        "film",
        "is",
        "[SEP]",
        "a",
        "bad",
        "[SEP]",
    ]
    assert examples[0].token_type_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_prediction_needs_no_label_and_ignores_wrong_ones(write, word_piece):
    path = write("a.jsonl", [{"text": "good", "label": -1}, {"text": "bad"}])
    examples = load(path, word_piece, need_target=False, task="classify", labels=("neg", "pos"))
    assert [x.label for x in examples] == [IGNORED, IGNORED]
    assert (examples.labels, examples.num_labels, examples.has_targets) == (("neg", "pos"), 2, False)


@pytest.mark.parametrize("name", ["bpe", "spiece"])
def test_prompt_and_completion(write, name, request):
    """prefix + prompt | completion + EOS; the completion is scored; the prompt of generation is the beginning of the row."""
    tokenizer = request.getfixturevalue(name)
    path = write("a.jsonl", [{"prompt": "What is the capital of France?", "completion": " Paris."}])
    row = load(path, tokenizer)[0]
    prompt = load(path, tokenizer, for_generation=True)[0]
    count = prompt.prompt_length
    assert prompt.input_ids.tolist() == tokenizer.encode("What is the capital of France?")
    assert row.input_ids[:count].tolist() == prompt.input_ids.tolist()
    assert row.prompt_length == count == len(prompt.input_ids)
    assert row.input_ids[-1] == tokenizer.eos_id
    assert row.labels.tolist() == [IGNORED] * count + row.input_ids[count:].tolist()
    assert tokenizer.decode(row.input_ids) == "What is the capital of France? Paris."
    assert row.reference == prompt.reference == " Paris."


def test_loss_on_all(write, spiece):
    path = write("a.jsonl", [{"prompt": "the dog", "completion": " Paris."}])
    examples = load(path, spiece, loss_on="all")
    assert examples[0].labels.tolist() == examples[0].input_ids.tolist()
    assert examples.stats.supervised == len(examples[0].input_ids) - 1
    assert examples[0].prompt_length == len(spiece.encode("the dog"))


def test_instructions(write, bpe, chat):
    rows = [
        {"instruction": "Name the dog", "input": "dog", "output": "fox"},
        {"instruction": "Jump", "input": "", "output": "no"},
    ]
    path = write("a.jsonl", rows)
    plain = load(path, bpe, seq_len=512)
    assert plain.template.name == "alpaca"
    assert "### Input:\ndog\n\n### Response:\n" in bpe.decode(plain[0].input_ids)
    assert bpe.decode(plain[1].input_ids).endswith("### Instruction:\nJump\n\n### Response:\nno")
    talk = load(path, chat)
    assert talk.template.name == "chat"
    assert chat.decode(talk[0].input_ids, skip_special=False) == (
        "<|im_start|>user\nName the dog\n\ndog<|im_end|>\n<|im_start|>assistant\nfox<|im_end|>\n"
    )
    assert chat.decode(load(path, chat, template="plain")[1].input_ids) == "Jump\nno"


def test_input_and_reference(write, bpe):
    path = write("e2e.txt", "name : A||A is here .\nname : B||B .\n")
    examples = load(path, bpe, separator="||")
    assert (examples.task, examples.kind) == ("instruct", "reference")
    assert bpe.decode(examples[0].input_ids) == "name : A\nA is here ."
    assert examples.references == ("A is here .", "B .")


def test_documents(write, spiece, bpe):
    path = write("a.jsonl", [{"text": "The dog."}, {"text": ""}, {"text": "a fox"}])
    examples = load(path, spiece)
    assert examples.task == "lm"
    assert [x.input_ids.tolist() for x in examples] == [
        [*spiece.encode(t), spiece.eos_id] for t in ("The dog.", "a fox")
    ]
    assert examples[1].labels.tolist() == examples[1].input_ids.tolist()
    assert [x.row for x in examples] == [0, 2]
    assert examples.where(1).endswith("line 3")
    assert (examples.stats.read, examples.stats.used, examples.stats.empty, examples.stats.eos_supervised) == (
        3,
        2,
        1,
        2,
    )
    with pytest.raises(DataError, match="line 2: the text is empty"):
        load(path, bpe, need_target=False)


def test_plain_text_is_one_stream(write, spiece, monkeypatch):
    text = "The quick brown fox\njumps over\n\nthe lazy dog.\n" * 9
    path = write("a.txt", text)
    examples = load(path, spiece, seq_len=32, task="lm")
    whole = spiece.encode(text)
    assert np.concatenate([x.input_ids for x in examples]).tolist() == whole
    assert [len(x.input_ids) for x in examples] == [32] * (len(whole) // 32) + [len(whole) % 32]
    assert examples.kind == "stream"
    assert examples.where(2).endswith("a.txt, block 3")
    assert len(load(path, spiece, seq_len=32, task="lm", max_rows=2)) == 2
    # Tokenising a large file piece by piece gives the same tokens.
    monkeypatch.setattr("petrun.data.encode.text._STREAM_CHUNK", 50)
    again = load(path, spiece, seq_len=32, task="lm")
    assert np.concatenate([x.input_ids for x in again]).tolist() == whole


def test_lines_of_plain_text_are_prompts(write, bpe):
    path = write("a.txt", "What is the capital?\n\nWhy?\n")
    for task in ("lm", "instruct", None):
        examples = load(path, bpe, task=task, for_generation=True, need_target=False, family_tasks=("lm", "instruct"))
        assert [bpe.decode(x.input_ids) for x in examples] == ["What is the capital?", "Why?"]
        assert [x.reference for x in examples] == [None, None]


def test_tokenised_rows_for_a_decoder(write):
    rows = [
        {"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0], "labels": [-100, 6, 7, 0]},
        {"input_ids": [0, 0, 8, 9], "attention_mask": [0, 0, 1, 1]},
    ]
    examples = load(write("a.jsonl", rows), None)
    assert examples.task == "lm"
    # Length and mask stay as given; padding is never scored.
    assert [x.input_ids.tolist() for x in examples] == [[5, 6, 7, 0], [0, 0, 8, 9]]
    assert [x.mask.tolist() for x in examples] == [[1, 1, 1, 0], [0, 0, 1, 1]]
    assert [x.labels.tolist() for x in examples] == [[-100, 6, 7, -100], [-100, -100, 8, 9]]


def test_prompts_of_tokenised_rows(write, bpe):
    answer = [*bpe.encode("Paris."), bpe.eos_id]
    question = bpe.encode("Why?")
    row = {
        "input_ids": [0, 0, *question, *answer],
        "attention_mask": [0, 0] + [1] * (len(question) + len(answer)),
        "labels": [-100] * (2 + len(question)) + answer,
    }
    prompt = load(write("a.jsonl", [row, {"input_ids": question}]), bpe, for_generation=True, task="instruct")
    assert [x.input_ids.tolist() for x in prompt] == [question, question]
    assert prompt.references == ("Paris.", None)


def test_tokenised_rows_for_classification(write, tmp_path):
    rows = [{"input_ids": [5, 6], "token_type_ids": [0, 1], "label": 2}, {"input_ids": [5], "label": 0}]
    examples = load(write("a.jsonl", rows), None)
    assert (examples.task, examples.num_labels, examples.labels) == ("classify", 3, ())
    assert [x.label for x in examples] == [2, 0]
    assert [x.token_type_ids.tolist() for x in examples] == [[0, 1], [0]]
    np.savez(
        tmp_path / "a.npz",
        input_ids=np.array([[5, 6], [7, 8]]),
        attention_mask=np.array([[1, 1], [1, 0]]),
        labels=[2, 0],
    )
    arrays = load(tmp_path / "a.npz", None)
    assert (arrays.kind, arrays.task, [x.label for x in arrays]) == ("tokens", "classify", [2, 0])
    assert [x.mask.tolist() for x in arrays] == [[1, 1], [1, 0]]


def test_arrays(tmp_path):
    x = np.arange(12, dtype=np.float64).reshape(4, 3)
    np.savez(tmp_path / "a.npz", image=x, label=np.array([[0], [2], [2], [0]]))
    np.savez(tmp_path / "b.npz", image=x[:1] + 50, label=[1])
    examples = load([tmp_path / "a.npz", tmp_path / "b.npz"], None, family_tasks=("classify",))
    assert (examples.is_arrays, len(examples), examples.num_labels) == (True, 5, 3)
    assert examples[4].arrays["image"].tolist() == [50, 51, 52]
    assert [x.label for x in examples] == [0, 2, 2, 0, 1]
    assert examples.where(4).endswith("b.npz, row 1")
    np.savez(tmp_path / "c.npz", image=x, y=np.array(["cat", "dog", "dog", "cat"]))
    named = load(tmp_path / "c.npz", None, columns={"label": "y"})
    assert (named.labels, [x.label for x in named], list(named.arrays)) == (("cat", "dog"), [0, 1, 1, 0], ["image"])
    np.savez(tmp_path / "d.npz", image=x[:, :2], label=[0] * 4)
    with pytest.raises(
        DataError, match=r"d.npz: arrays image float32\[2\] differ from those of a.npz: image float32\[3\]"
    ):
        load([tmp_path / "a.npz", tmp_path / "d.npz"], None)


def test_cutting_is_counted(write, bpe):
    rows = [
        {"prompt": "dog", "completion": " the dog" * 30},
        {"prompt": "the dog " * 30, "completion": " yes"},
        {"prompt": "the dog", "completion": " yes"},
    ]
    path = write("a.jsonl", rows)
    examples = load(path, bpe, seq_len=24)
    assert (examples.stats.cut, examples.stats.completion_gone, examples.stats.used) == (2, 1, 3)
    assert examples.lengths.tolist()[:2] == [24, 24]
    assert examples.stats.eos_supervised == 1
    whole = load(path, bpe, seq_len=999)
    assert examples[1].input_ids.tolist() == whole[1].input_ids[:24].tolist()
    # A prompt for generation loses its beginning instead: what it asks stands at its end.
    prompts = load(path, bpe, seq_len=24, for_generation=True)
    assert prompts[1].input_ids.tolist() == bpe.encode(rows[1]["prompt"])[-24:]
    assert prompts.stats.cut == 1


def test_statistics(write, bpe):
    examples = load(
        write("a.jsonl", [{"prompt": "the dog", "completion": " yes"}, {"prompt": "", "completion": "Paris."}]), bpe
    )
    scored = [len(bpe.encode(" yes")) + 1, len(bpe.encode("Paris."))]
    assert examples.stats.supervised == sum(scored)
    assert examples.stats.tokens == int(examples.lengths.sum())
    assert examples.stats.eos_supervised == 2


def test_several_files_and_weights(write, word_piece):
    first = write("a.jsonl", [{"text": "good", "label": i % 2} for i in range(10)])
    second = write("b.tsv", "bad\t0\nbad\t1\n")
    both = load([first, second], word_piece)
    assert [x.row for x in both] == list(range(12))
    assert both.where(11).endswith("b.tsv, line 2")
    weighted = load([first, second], word_piece, weights=(0.5, 2.0))
    rows = weighted.per_row["row"].tolist()
    assert rows[5:] == [10, 11, 10, 11]
    assert len(set(rows[:5])) == 5 and rows[:5] == sorted(rows[:5]) and max(rows[:5]) < 10
    assert rows == load([first, second], word_piece, weights=(0.5, 2.0)).per_row["row"].tolist()
    assert rows != load([first, second], word_piece, weights=(0.5, 2.0), seed=4).per_row["row"].tolist()
    assert load([first, second], word_piece, max_rows=1).per_row["row"].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"rows of different kinds: a.jsonl text, c.jsonl pair"):
        load([first, write("c.jsonl", [{"text": "a", "text_pair": "b", "label": 0}])], word_piece)


def test_files_by_shares(write, word_piece, tmp_path):
    """Shares are of the rows: with 0.8 and 0.2 the larger file gives four rows for each of the smaller, and no row is read twice."""
    many = write("many.jsonl", [{"text": "good", "label": i % 2} for i in range(40)])
    few = write("few.jsonl", [{"text": "bad", "label": i % 2} for i in range(5)])
    mixed = load([many, few], word_piece, shares=(0.8, 0.2))
    assert mixed.per_row["file"].tolist() == [0] * 20 + [1] * 5 and len(set(mixed.per_row["row"].tolist())) == 25
    assert mixed.notes == (f"rows by shares: 20 of {many}'s 40, 5 of {few}'s 5",)
    assert mixed.per_row["row"].tolist() != load([many, few], word_piece, shares=(4, 1), seed=4).per_row["row"].tolist()
    # A folder of two files is one path, with one share.
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_text("".join('{"text": "good", "label": 1}\n' for _ in range(15)))
    both = load([folder, few], word_piece, shares=(3, 1))
    assert len(both) == 20 and both.per_row["file"].tolist().count(2) == 5
    for wrong, message in (
        ({"shares": (1, 2, 3)}, "3 shares for 2 files"),
        ({"shares": (1, -1)}, "number above 0"),
        ({"shares": (1, 1), "weights": (1.0, 1.0)}, "by one of them"),
        ({"shares": (1000, 1)}, "would give no row"),
    ):
        with pytest.raises(ConfigError, match=message):
            load([many, few], word_piece, **wrong)
    with pytest.raises(ConfigError, match="a share of one file alone"):
        load(few, word_piece, shares=(0.5,))


def test_split_is_deterministic_and_keeps_copies_together(write, word_piece):
    first = write("a.jsonl", [{"text": "good", "label": i % 2} for i in range(40)])
    second = write("b.jsonl", [{"text": "bad", "label": i % 2} for i in range(10)])
    examples = load([first, second], word_piece, weights=(1.0, 3.0))
    train, held = split(examples, 0.2, seed=1)
    assert len(held) == 10
    assert not set(train.per_row["row"]) & set(held.per_row["row"])
    assert len(set(held.per_row["row"].tolist())) == 10
    assert held.per_row["row"].tolist() == sorted(held.per_row["row"].tolist())
    assert len(train) == sum(3 if row >= 40 else 1 for row in set(range(50)) - set(held.per_row["row"].tolist()))
    again = split(load([first, second], word_piece, weights=(1.0, 3.0)), 0.2, seed=1)[1]
    assert again.per_row["row"].tolist() == held.per_row["row"].tolist()
    assert split(examples, 0.2, seed=2)[1].per_row["row"].tolist() != held.per_row["row"].tolist()
    assert len(split(examples, 0.001, seed=1)[1]) == 1
    with pytest.raises(DataError, match="leaves nothing to train on"):
        split(load(first, word_piece, max_rows=1), 0.5, seed=0)


def test_the_scramble_is_fixed_for_all_time():
    assert scramble(np.arange(3), 7, "rows").tolist() == [
        12436293289831086611,
        17867938689713543379,
        8376050287209213826,
    ]
    assert len(set(scramble(np.arange(10_000), 0, 1).tolist())) == 10_000


def test_a_chat_template_over_plain_rows(write, bpe):
    path = write("a.jsonl", [{"prompt": "Why?", "completion": "Because.", "system": "Be brief."}])
    row = load(path, bpe, template="chatml")[0]
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n"
    assert bpe.decode(row.input_ids, skip_special=False) == text
    assert bpe.decode(row.input_ids[row.labels != IGNORED], skip_special=False) == "Because.<|im_end|>"
    prompt = load(path, bpe, template="chatml", for_generation=True)[0]
    assert prompt.input_ids.tolist() == row.input_ids[: row.prompt_length].tolist()
    assert prompt.reference == "Because."


def test_prediction_takes_documents_as_they_are(write, spiece):
    examples = load(write("a.txt", "The dog.\n\na fox\n"), spiece, task="lm", need_target=False)
    assert [x.input_ids.tolist() for x in examples] == [spiece.encode("The dog."), spiece.encode("a fox")]


def test_arrays_can_be_split(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(20.0).reshape(10, 2), label=np.arange(10) % 2)
    train, held = split(load(tmp_path / "a.npz", None), 0.3, seed=0)
    assert (len(train), len(held)) == (7, 3)
    for part in (train, held):
        assert part.arrays["x"][:, 0].tolist() == [2.0 * row for row in part.per_row["row"]]


def test_mapped_columns_and_custom_templates(write, bpe, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ topic }}: {{ prompt }} ->")
    path = write("a.csv", "question,reply,topic\nWhy?,Because.,dogs\n")
    examples = load(
        path, bpe, columns={"prompt": "question", "completion": "reply"}, template=str(tmp_path / "t.jinja")
    )
    assert bpe.decode(examples[0].input_ids) == "dogs: Why? ->Because."


def test_real_data(shared, word_piece, bpe):
    examples = load(shared / "data/sst2/dev.tsv", word_piece, family_tasks=("classify",))
    assert (len(examples), examples.num_labels, int(examples.per_row["label"].sum())) == (872, 2, 444)
    tnews = load(shared / "data/tnews/train_few_all.json", word_piece, family_tasks=("classify",))
    codes = {
        row["label"] for row in map(json.loads, (shared / "data/tnews/train_few_all.json").read_text().splitlines())
    }
    assert tnews.labels == tuple(str(code) for code in sorted(codes))
    named = load(shared / "data/tnews/train_few_all.json", word_piece, columns={"label": "label_desc"})
    assert len(named.labels) == 15 and named.labels[0] == "news_agriculture"
    e2e = load(shared / "data/e2e/valid.txt", bpe, separator="||", seq_len=512)
    assert (len(e2e), e2e.stats.eos_supervised, len({tuple(x.input_ids[: x.prompt_length]) for x in e2e})) == (
        4672,
        4672,
        547,
    )
