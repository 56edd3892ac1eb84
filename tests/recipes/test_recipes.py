"""Every shipped recipe validates, names itself, and the complete example of a user's own model runs as it says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from petrun.cli.app import app
from petrun.config.load import find_recipe, load_run_config, recipe_names
from petrun.delta import METHODS
from petrun.errors import ModelError, OutputError

NAMES = recipe_names()


def petrun(*arguments):
    app(args=[str(a) for a in arguments], prog_name="petrun", standalone_mode=False)


def test_all_recipes_are_found():
    assert {"bert/sst2-lora", "gpt2/e2e-lora", "embedded/e2e-lora", "own/mlp"} <= set(NAMES)
    used = {load_run_config(name, {}, []).config.algo for name in NAMES}
    assert {part for algo in used for part in algo.split("+")} == set(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_validates_and_says_what_it_is(name):
    resolved = load_run_config(name, {}, [])
    assert resolved.config.delta is not None and len(resolved.origins) >= 2
    first = find_recipe(name).read_text().splitlines()[0]
    assert first.startswith("# ") and len(first) > 30


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("embedded/", "own/"))])
def test_a_recipe_for_a_family_asks_for_its_base(tmp_path, name):
    rows = tmp_path / "rows.tsv"
    rows.write_text("a good film||good\t1\na bad film||bad\t0\n")
    with pytest.raises(ModelError, match="no base is given for a") as caught:
        petrun("train", name, "--data", rows)
    assert "--base" in caught.value.hint


def test_ls_show_cp(tmp_path, capsys):
    petrun("recipes", "ls")
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    petrun("recipes", "ls", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [f"{name.ljust(max(map(len, NAMES)))}  {first}" for name, first in found.items()] == listed
    petrun("recipes", "show", "bert/sst2-lora")
    assert capsys.readouterr().out == find_recipe("bert/sst2-lora").read_text()
    petrun("recipes", "cp", "own/mlp", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"mlp.yaml", "mlp.py", "make_data.py"}
    with pytest.raises(OutputError, match=r"make_data\.py.* exists"):
        petrun("recipes", "cp", "own/mlp", tmp_path / "mine.yaml")
    petrun("recipes", "cp", "own/mlp", tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "mlp.yaml").is_file()
    petrun("recipes", "cp", "llama/lm-lora", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == find_recipe("llama/lm-lora").read_text()


def test_a_model_of_ones_own_from_the_copy_to_the_merge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    petrun("recipes", "cp", "own/mlp", ".")
    subprocess.run([sys.executable, "make_data.py"], check=True, timeout=60)
    petrun("train", "mlp.yaml", "--epochs", 8, "--out", "run")
    results = json.loads(Path("run/results.json").read_text())
    assert results["base"]["accuracy"] < 0.5 and results["accuracy"] > 0.95
    petrun("eval", "--model", "mlp.py:build", "--delta", "run", "--data", "eval.npz", "--set", "model.kwargs={width: 64, classes: 3}",
           "--out", "eval.json")  # fmt: skip
    assert json.loads(Path("eval.json").read_text())["accuracy"] == pytest.approx(results["accuracy"])
    petrun("predict", "--model", "mlp.py:build", "--delta", "run", "--data", "eval.npz", "--out", "p.jsonl")
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    labels = np.load("eval.npz")["label"]
    assert np.mean([line["label"] == label for line, label in zip(lines, labels, strict=True)]) == pytest.approx(
        results["accuracy"]
    )


@pytest.mark.all_only
def test_full_fine_tuning_of_ones_own_model_is_a_base_afterwards(tmp_path, monkeypatch):
    """A full delta folded into a checkpoint of the net gives a base that needs no delta."""
    monkeypatch.chdir(tmp_path)
    petrun("recipes", "cp", "own/mlp", ".")
    subprocess.run([sys.executable, "make_data.py"], check=True, timeout=60)
    import mindspore as ms

    from petrun.models.factory import ModelSource, load_model

    start = load_model(ModelSource(family="mlp.py:build"))
    ms.save_checkpoint(start.net, "start.ckpt")
    petrun("train", "mlp.yaml", "--algo", "full", "--base", "start.ckpt", "--epochs", 4, "--lr", 0.01, "--set", "train.train_also=[]",
           "--out", "run")  # fmt: skip
    petrun("merge", "--model", "mlp.py:build", "--base", "start.ckpt", "--delta", "run", "--out", "merged.ckpt")
    for out, flags in (("d", ["--base", "start.ckpt", "--delta", "run"]), ("m", ["--base", "merged.ckpt"])):
        petrun("eval", "--model", "mlp.py:build", *flags, "--data", "eval.npz", "--out", f"{out}.json")
    assert json.loads(Path("d.json").read_text())["loss"] == pytest.approx(
        json.loads(Path("m.json").read_text())["loss"], abs=1e-6
    )
