"""A new family is one file (bag.py) and one line in the table: every command knows it from there."""

import json

import numpy as np
import pytest
from mindspore import Tensor

from petrun.models.factory import load_model
from petrun.models.families import FAMILIES, family_of_type, spell_families
from petrun.tensors import array_entries, open_tensors, write_safetensors
from tests.models import bag
from tests.tiny import REVIEWS, WORDS, words, write_rows

WIDTH = 8
CONFIG = {"model_type": "bag", "vocab_size": len(WORDS), "hidden_size": WIDTH, "scale": 2.0}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FAMILIES, "bag", bag.FAMILY)


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"bag.words.weight": (len(WORDS), WIDTH), "bag.mixer.weight": (WIDTH, WIDTH), "bag.mixer.bias": (WIDTH,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def base(place):
    """A folder of the family as Hugging Face would write it, and rows."""
    folder = place / "bag"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", array_entries(tensors()), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    words().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    write_rows(place / "rows.jsonl", REVIEWS)
    return folder


def test_the_table_says_its_names():
    assert family_of_type("bag") is bag.FAMILY and family_of_type("other") is None
    assert family_of_type("bag").hf_classes == {"bag": "BagForSequenceClassification"}
    assert spell_families().endswith(" or bag") and "bag" not in spell_families("instruct", "and")


def test_its_net_computes_the_formula(base, mode):
    loaded = load_model(base, num_labels=3, seed=1)
    stored, ids = tensors(), np.array([[4, 5, 6, 0]], np.int32)
    out = {name: p.asnumpy() for name, p in loaded.net.parameters_and_names() if name.startswith("out.")}
    mean = 2.0 * stored["bag.words.weight"][ids[0, :3]].mean(0)
    mixed = np.tanh(mean @ stored["bag.mixer.weight"] + stored["bag.mixer.bias"])
    logits = loaded.net(Tensor(ids), Tensor((ids > 0).astype(np.int32))).asnumpy()
    np.testing.assert_allclose(logits[0], mixed @ out["out.weight"].T + out["out.bias"], atol=1e-5)
    assert loaded.fresh == ("out.weight", "out.bias") and loaded.max_positions is None


def test_the_commands_take_it(base, place, petrun):
    """Inspected, trained with LoRA, evaluated and merged: the merged model has the figures of base and delta."""
    done = petrun("inspect bag")
    assert done.code == 0 and "bag" in done.out, done.err
    done = petrun("train --base bag --data rows.jsonl --eval-data rows.jsonl --rank 2 --lr 0.01 --steps 6 --out run")
    assert done.code == 0, done.err
    done = petrun("eval --base bag --delta run --data rows.jsonl --out delta.json")
    assert done.code == 0, done.err
    done = petrun("merge --base bag --delta run --out merged --prove")
    assert done.code == 0, done.err
    config = json.loads((place / "merged" / "config.json").read_text())
    assert config["architectures"] == ["BagForSequenceClassification"] and config["model_type"] == "bag"
    assert set(open_tensors(place / "merged").names) == {stored.name for stored in bag.names(None).values()}
    done = petrun("eval --base merged --data rows.jsonl --out merged.json")
    assert done.code == 0, done.err
    found, wanted = (json.loads((place / f"{name}.json").read_text()) for name in ("merged", "delta"))
    assert found["base"] == pytest.approx(wanted["delta"], abs=1e-5)


def test_refusals_name_it(refused, base):
    refused("serve --base bag", [f"Give a {spell_families('instruct')} family base"])
    refused(
        "train --base bag --data rows.jsonl --algo prefix", ["the model does not say how many key/value heads it has"]
    )
    refused("train --base bag --model bog --data rows.jsonl", ["no such family", "bag"])
