"""`--train-rows new` on the embedded base with Chinese pieces: from training to a merged base, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.assets import base_folder
from petrun.checkpoint.delta import read_delta
from petrun.checkpoint.vocabulary import NEW_ROWS
from petrun.delta.rows import ROWS, ids_of
from tests.commands.vocab.test_vocab_commands import TEXTS
from tests.curation.rows import write_jsonl
from tests.program import call

TRAIN = (
    "train --base longer --data zh.jsonl --task lm --rank 2 --steps 2 --seq-len 32 --batch-size 4 --device cpu".split()
)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """The embedded base with Chinese pieces."""
    folder = tmp_path_factory.mktemp("grown")
    write_jsonl(folder / "zh.jsonl", [{"text": text} for text in TEXTS])
    base, out = str(base_folder()), str(folder / "longer")
    assert (
        call(["vocab", "train", str(folder / "zh.jsonl"), "--base", base, "--size", "340", "--out", str(folder / "zh")])
        == 0
    )
    assert call(["vocab", "merge", "--base", base, "--tokenizer", str(folder / "zh"), "--out", out]) == 0
    return folder


@pytest.fixture
def folder(grown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("longer", "zh"):
        shutil.copytree(grown / name, tmp_path / name)
    shutil.copy(grown / "zh.jsonl", tmp_path)
    return tmp_path


def test_only_the_new_rows_and_the_lora_train(folder, capfd):
    assert call([*TRAIN, "--train-rows", "new", "--out", "run"]) == 0, capfd.readouterr().err
    rows = json.loads((folder / "longer" / NEW_ROWS).read_text())["rows"]
    delta = read_delta(folder / "run")
    assert delta.algo == "lora+rows" and delta.config["rows"] == rows and delta.manifest.tokenizer_digest
    ids = ids_of(rows)
    assert delta.shapes[f"embed.{ROWS}"][0] == len(ids) and not any("weight" in name for name in delta.shapes)
    assert call(["merge", "--base", "longer", "--delta", "run", "--out", "merged"]) == 0
    before, after = (load_file(folder / name / "model.safetensors") for name in ("longer", "merged"))
    assert before.keys() == after.keys()
    table = "model.embed_tokens.weight"
    old = np.setdiff1d(np.arange(len(before[table])), ids)
    assert np.array_equal(after[table][old], before[table][old]) and not np.array_equal(after[table], before[table])
    stored = delta.tensors[f"embed.{ROWS}"].astype(after[table].dtype)
    assert np.array_equal(after[table][ids], stored)
    # A merged base still says which rows are new: a second run may go on with them.
    assert json.loads((folder / "merged" / NEW_ROWS).read_text())["rows"] == rows
    scores = []
    for name, given in (
        ("beside", ["--base", "longer", "--delta", "run"]),
        ("merged", ["--base", "merged", "--task", "lm"]),
    ):
        line = ["eval", *given, "--data", "zh.jsonl", "--seq-len", "32", "--out", f"{name}.json"]
        capfd.readouterr()
        assert call(line) == 0, capfd.readouterr().err
        scores.append(json.loads((folder / f"{name}.json").read_text()))
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=2e-3)
    assert call(["delta", "convert", "run", "--to", "peft", "--base", "longer", "--out", "adapter"]) == 0
    assert (folder / "adapter" / "tokenizer.json").read_text() == (folder / "longer" / "tokenizer.json").read_text()
    own_tokenizer = (folder / "longer" / "tokenizer.json").read_text()
    _swap_ids(folder / "longer" / "tokenizer.json")
    given = ["--base", "longer", "--delta", "run"]
    line = ["eval", *given, "--data", "zh.jsonl", "--seq-len", "32", "--out", "again.json"]
    assert call(line) == 0, capfd.readouterr().err
    assert "trained with is used" in capfd.readouterr().out
    assert json.loads((folder / "again.json").read_text())["loss"] == scores[0]["loss"]
    assert call(["merge", *given, "--out", "own"]) == 0
    assert (folder / "own" / "tokenizer.json").read_text() == own_tokenizer
    shutil.rmtree(folder / "run" / "tokenizer")
    for refused in (line, ["merge", *given, "--out", "other"]):
        assert call(refused) in (1, 2)
        assert "holds rows of tokens, and the tokenizer in" in " ".join(capfd.readouterr().err.split())
    assert not (folder / "other").exists()


def _swap_ids(file):
    """Give the ids of two tokens to each other."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (300, 301))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--train-rows", "9-3"], "ends before it begins"),
        (["--train-rows", "2000-99999"], "the token table has"),
        (["--train-rows", "new", "--algo", "full"], "full trains all of the base, rows a part of it"),
        (["--train-rows", "new", "--base", str(base_folder())], "does not say which of its rows are new"),
        (["--train-rows", "5", "--target", "embed"], "embed cannot be a target of lora"),
    ],
)
def test_refused_before_training(folder, capfd, change, said):
    assert call([*TRAIN, *change, "--out", "run"]) in (1, 2)
    assert said in " ".join(capfd.readouterr().err.split()) and not (folder / "run").exists()


def test_a_list_of_another_base(folder, capfd):
    (folder / "longer" / NEW_ROWS).write_text('{"rows": "3-9", "vocab_size": 99}')
    assert call([*TRAIN, "--train-rows", "new", "--out", "run"]) in (1, 2)
    assert "is of a base with 99 rows" in " ".join(capfd.readouterr().err.split())
    (folder / "longer" / NEW_ROWS).write_text("[]")
    assert call([*TRAIN, "--train-rows", "new", "--out", "run"]) in (1, 2)
    assert "does not name the new rows" in " ".join(capfd.readouterr().err.split())
