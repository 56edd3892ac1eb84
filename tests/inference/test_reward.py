"""Rewards against an independent net in numpy; which models are reward models."""

import json

import numpy as np
import pytest

from petrun.errors import ModelError
from petrun.inference.reward import open_reward_model
from petrun.tensors import array_entries, write_safetensors
from tests.curation.rows import read_jsonl, write_jsonl
from tests.models.reference import bert, llama, make
from tests.program import call
from tests.tiny import CONFIGS, letters, words, write_base

HEAD = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "architectures": ["BertForSequenceClassification"]}
ROWS = [
    {"prompt": "is this film good", "completion": "it is very good"},
    {"prompt": "is this film good", "completion": "a bad film"},
    {"prompt": "is it", "completion": "the film " * 12},
    {"prompt": "is it", "completion": " "},
]


def write_reward(folder, **changes):
    write_base(folder, "bert", **{**HEAD, **changes})
    tensors = make(CONFIGS["bert"], classes=len({**HEAD, **changes}["id2label"]))
    write_safetensors(folder / "model.safetensors", array_entries(tensors), {"format": "pt"})
    return tensors


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def test_a_reward_is_the_output_of_the_head_for_the_pair(folder):
    tensors = write_reward(folder / "reward")
    line = ["data", "score", "rows.jsonl", "--by", "reward:reward", "--out", "scores.jsonl"]
    assert call(line) == 0
    header, *found = read_jsonl(folder / "scores.jsonl")
    assert (header["by"], header["direction"], header["longest"]) == ("reward", "high is good", 24)
    for row, entry in zip(ROWS[:2], found, strict=False):
        pair = words().encode(row["prompt"], row["completion"])
        ids, types = np.array([pair.ids]), np.array([pair.type_ids])
        assert types.any()
        expected = bert(tensors, CONFIGS["bert"], ids, np.ones_like(ids), types)[0, 0]
        assert abs(entry["score"] - expected) < 1e-5
    assert [entry["reason"] for entry in found[2:]] == ["too long", "no question or no answer"]
    select = ["data", "select", "rows.jsonl", "--scores", "scores.jsonl", "--top", "1", "--out", "best.jsonl"]
    assert call(select) == 0
    assert read_jsonl(folder / "best.jsonl") == [ROWS[int(found[1]["score"] > found[0]["score"])]]


def test_a_decoder_sees_the_conversation(folder):
    head = {**HEAD, "architectures": ["LlamaForSequenceClassification"]}
    write_base(folder / "reward", "llama", **head)
    tensors = make(CONFIGS["llama"])
    score = np.random.default_rng(1).normal(size=(1, CONFIGS["llama"]["hidden_size"])).astype(np.float32)
    stored = {name: values for name, values in tensors.items() if name != "lm_head.weight"} | {"score.weight": score}
    write_safetensors(folder / "reward" / "model.safetensors", array_entries(stored), {"format": "pt"})
    rewards = open_reward_model("reward", {}, (), 8)
    found = rewards([("is it", "yes"), ("2+2=", "a long answer, 4")], lambda done, count: None)
    for (question, answer), value in zip((("is it", "yes"), ("2+2=", "a long answer, 4")), found, strict=True):
        ids = np.array([letters().encode(f"<user>{question}<assistant>{answer}<eos>").ids])
        net = {**tensors, "lm_head.weight": score}
        expected = llama(net, CONFIGS["llama"], ids, np.ones_like(ids), np.arange(ids.shape[1])[None])[0, -1, 0]
        assert abs(value - expected) < 1e-4
    (folder / "reward" / "tokenizer_config.json").write_text('{"pad_token": "<pad>", "eos_token": "<eos>"}')
    with pytest.raises(ModelError, match="has no chat template"):
        open_reward_model("reward", {}, (), 8)


def test_what_is_no_reward_model_is_refused_by_name(folder):
    write_base(folder / "decoder", "chatglm", architectures=["ChatGLMForSequenceClassification"])
    with pytest.raises(ModelError, match="is ChatGLMForSequenceClassification, and petrun computes a reward of bert"):
        open_reward_model("decoder", {}, (), 8)
    write_reward(folder / "classes", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    with pytest.raises(ModelError, match="with a head of 2 classes; a reward model has one output"):
        open_reward_model("classes", {}, (), 8)
    write_base(folder / "headless", "bert", architectures=["BertModel"])
    with pytest.raises(ModelError, match="is BertModel with no classification head"):
        open_reward_model("headless", {}, (), 8)
    write_reward(folder / "mute")
    (folder / "mute" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        open_reward_model("mute", {}, (), 8)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--by", "reward:"], "--by reward: the model is missing"),
        (["--by", "reward:none"], "none: no such file or folder"),
        (["--by", "reward:reward", "--base", "reward"], "--base has no effect on --by reward"),
        (["--by", "reward:reward", "--margin"], "--margin has no effect on --by reward"),
        (["--by", "rewrd:reward"], "--by rewrd:reward: no such score"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, more, said):
    (folder / "reward").mkdir()
    (folder / "reward" / "config.json").write_text(json.dumps({**CONFIGS["bert"], **HEAD}))
    assert call(["data", "score", "rows.jsonl", *more, "--out", "scores.jsonl"]) in (1, 2)
    shown = capfd.readouterr().err
    assert said in shown and "Traceback" not in shown and not (folder / "scores.jsonl").exists()
