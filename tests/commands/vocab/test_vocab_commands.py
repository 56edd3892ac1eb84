"""`petrun vocab train` and `merge` on the embedded base: old text has the same logits, new text fewer tokens, and the result trains."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.assets import base_folder
from petrun.checkpoint.vocabulary import COPY, MEAN, NOISE, new_rows
from petrun.data.tokenizers.extension import NewPiece
from tests.curation.rows import write_jsonl
from tests.program import call
from tests.tiny import write_base

TEXTS = [
    "今天天气很好，我们去公园散步。",
    "明天天气不好，我们在家看书。",
    "公园里有很多人，天气很好。",
    "我们明天去看电影，后天在家。",
] * 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "zh.jsonl", [{"text": text} for text in TEXTS])
    return tmp_path


def logits(base, name):
    line = ["predict", "--base", str(base), "--task", "lm", "--data", "en.jsonl", "--logits", f"{name}.safetensors"]
    assert call([*line, "--seq-len", "32"]) == 0
    return load_file(f"{name}.safetensors")["logits"]


def test_a_base_gets_chinese(folder, capfd):
    base = base_folder()
    assert call(["vocab", "train", "zh.jsonl", "--base", str(base), "--size", "340", "--out", "zh"]) == 0
    line = ["vocab", "merge", "--base", str(base), "--tokenizer", "zh", "--out", "longer", "--held-out", "zh.jsonl"]
    assert call(line) == 0
    shown = capfd.readouterr().out
    assert "model.embed_tokens.weight: 2,048 -> " in shown and "tokens per character: " in shown
    fewer = int(shown.split("after, ")[1].split("%")[0])
    assert fewer >= 40
    config = json.loads((folder / "longer" / "config.json").read_text())
    before, after = (load_file(path / "model.safetensors") for path in (base, folder / "longer"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert np.array_equal(after[name][: len(values)], values)
    assert config["vocab_size"] == len(after["model.embed_tokens.weight"]) and config["vocab_size"] % 64 == 0
    # Old text: the same ids and, over the old ids, the same logits.
    (folder / "en.jsonl").write_text('{"text": "Extract the order. Please send 45 shirts to Milan."}\n')
    old, new = logits(base, "old"), logits(folder / "longer", "new")
    assert np.array_equal(old, new[..., : old.shape[-1]])
    train = [
        "train",
        "--base",
        "longer",
        "--data",
        "zh.jsonl",
        "--task",
        "lm",
        "--algo",
        "lora",
        "--rank",
        "2",
        "--steps",
        "1",
    ]
    assert call([*train, "--seq-len", "32", "--out", "run"]) == 0


def test_rows_of_new_pieces_are_made_of_old_ones():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    pieces = [NewPiece(id=4, text="x", old_ids=(1, 3)), NewPiece(id=5, text="y", old_ids=())]
    assert np.array_equal(new_rows(table, pieces, MEAN, 0), [table[[1, 3]].mean(0), table.mean(0)])
    assert np.array_equal(new_rows(table, pieces, COPY, 0), [table[1], table.mean(0)])
    noisy = new_rows(table, pieces, NOISE, 1)
    assert (
        np.array_equal(noisy, new_rows(table, pieces, NOISE, 1))
        and 0 < np.abs(noisy - new_rows(table, pieces, MEAN, 0)).max() < 2
    )


def test_an_untied_head_and_padding_get_their_rows(folder):
    """Given a table of 258 rows and 258 ids, of which the head has its own, both get rows by id."""
    write_base(folder / "llama", "llama", tie_word_embeddings=False)
    assert call(["vocab", "train", "zh.jsonl", "--base", "llama", "--size", "300", "--out", "zh"]) == 0
    assert call(["vocab", "merge", "--base", "llama", "--tokenizer", "zh", "--out", "longer", "--init", "copy"]) == 0
    before, after = (load_file(folder / name / "model.safetensors") for name in ("llama", "longer"))
    tables = [name for name in before if before[name].shape != after[name].shape]
    assert sorted(tables) == ["lm_head.weight", "model.embed_tokens.weight"]
    count = len(after["lm_head.weight"])
    assert count == json.loads((folder / "longer" / "config.json").read_text())["vocab_size"] > 258
    for name in tables:
        old = {row.tobytes() for row in before[name]}
        assert all(row.tobytes() in old for row in after[name][258:])


def test_a_base_without_vocab_size_is_refused(folder, capfd):
    """ChatGLM2 has padded_vocab_size in its place."""
    write_base(folder / "chatglm", "chatglm")
    assert call(["vocab", "train", "zh.jsonl", "--base", "chatglm", "--size", "300", "--out", "zh"]) == 0
    assert call(["vocab", "merge", "--base", "chatglm", "--tokenizer", "zh", "--out", "x"]) == 1
    assert "config.json has no vocab_size" in capfd.readouterr().err and not (folder / "x").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["vocab", "merge", "--tokenizer", "zh", "--out", "x"], "--base is missing"),
        (["vocab", "merge", "--base", "gpt2", "--tokenizer", "none", "--out", "x"], "holds no tokenizer.json"),
        (
            ["vocab", "merge", "--base", "gpt2", "--tokenizer", "gpt2", "--out", "x", "--init", "men"],
            "Did you mean mean",
        ),
        (["vocab", "merge", "--base", "gpt2", "--tokenizer", "gpt2", "--out", "x"], "no piece is new"),
        (["vocab", "train", "zh.jsonl", "--out", "x"], "--base is missing"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, line, said):
    write_base(folder / "gpt2", "gpt2")
    assert call(line) in (1, 2)
    assert said in capfd.readouterr().err and not (folder / "x").exists()
