"""The whole pipe against PyTorch + transformers + peft: logits, merged weights, training losses and trained tensors.

Every number comes from ../shared/oracle; the tests run through the commands' own functions, as a user's job does.
"""

import json

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.runs import merge, predict, train
from petrun.tensors import open_tensors

FAMILIES = ["bert", "gpt2", "llama", "qwen2"]
DELTAS = [None, "lora", "rslora"]


@pytest.fixture
def case(shared, tmp_path, monkeypatch):
    """(family) -> (case folder, a JSONL file with the case's batch)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def prepare(family):
        folder = shared / "oracle" / "cases" / family
        batch = load_file(folder / "batch.safetensors")
        rows = tmp_path / "rows.jsonl"
        with rows.open("w") as file:
            for i in range(len(batch["input_ids"])):
                file.write(
                    json.dumps({name: batch[name][i].tolist() for name in ("input_ids", "attention_mask", "labels")})
                    + "\n"
                )
        return folder, str(rows), batch

    return prepare


def flags(**values):
    return {key.replace("__", "."): (f"--{key}", value) for key, value in values.items()}


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss(case, tmp_path, family, delta):
    folder, rows, batch = case(family)
    predict.run(
        flags(model__base=str(folder / "base"), data__path=rows),
        [],
        delta=str(folder / delta) if delta else None,
        alpha=None,
        out=str(tmp_path / "out.jsonl"),
        logits_file=str(tmp_path / "logits.safetensors"),
    )
    expected = load_file(folder / delta / "out.safetensors" if delta else folder / "base_out.safetensors")
    found = load_file(tmp_path / "logits.safetensors")["logits"]
    assert found.shape == expected["logits"].shape
    seen = slice(None) if family == "bert" else batch["attention_mask"] == 1
    np.testing.assert_allclose(found[seen], expected["logits"][seen], atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    if family == "bert":
        assert [line["label"] for line in lines] == expected["logits"].argmax(-1).tolist()
    else:
        tokens = sum(line["tokens"] for line in lines)
        loss = sum(line["loss"] * line["tokens"] for line in lines) / tokens
        assert loss == pytest.approx(float(expected["loss"][0]), abs=1e-4)


@pytest.mark.parametrize("delta", ["lora", "rslora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights(case, tmp_path, family, delta):
    folder, _, _ = case(family)
    out = tmp_path / "merged"
    merge.run(
        base=str(folder / "base"), delta=str(folder / delta), out=str(out), family=None, alpha=None, dtype=None, max_shard_size=None
    )  # fmt: skip
    expected = load_file(folder / delta / "merged.safetensors")
    found = load_file(out / "model.safetensors")
    assert set(found) <= set(expected)
    # transformers keeps a tied head as a second name for the embedding.
    assert {name.rpartition(".")[0] for name in set(expected) - set(found)} <= {"lm_head"}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)


def peft_name(path, leaf):
    return f"base_model.model.{path}.lora_{leaf}.default.weight"


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize("delta", ["lora", "rslora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_five_training_steps(case, tmp_path, monkeypatch, family, delta, mode):
    if mode == ms.PYNATIVE_MODE:
        from petrun.parallel import context

        real = context.setup
        monkeypatch.setattr(train, "setup", lambda *a, **k: real(*a, **{**k, "pynative": True}))
    folder, rows, _ = case(family)
    wanted = json.loads((folder / delta / "train.json").read_text())
    train.run(
        None,
        flags(
            model__base=str(folder / "base"),
            data__path=rows,
            init_delta=str(folder / delta),
            train__steps=5,
            train__batch_size=3,
            optim__lr=wanted["lr"],
            optim__weight_decay=wanted["weight_decay"],
            optim__schedule="constant",
            optim__clip=0.0,
            data__shuffle=False,
            delta__dropout=0.0,
            algo="lora",
            out__dir="run",
            out__format="safetensors",
        ),
        ["optim.decay_all=true"],
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    np.testing.assert_allclose(losses, wanted["losses"], rtol=1e-3)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trainable_parameters"] == wanted["trainable_parameters"]
    check_trained(
        open_tensors(tmp_path / "run" / "lora.safetensors"), load_file(folder / delta / "trained.safetensors")
    )


def check_trained(found, expected):
    """Every trained tensor, matched by layer number and leaf, within 1e-3."""
    assert len(found.names) == len(expected)
    used = set()
    for name in found.names:
        values = found.read(name)
        leaf = "lora_A" if name.endswith("lora_a") else "lora_B" if name.endswith("lora_b") else name.rpartition(".")[2]
        number = next((part for part in name.split(".") if part.isdigit()), None)
        role = {"q": ("query", "q_proj"), "v": ("value", "v_proj"), "qkv": ("c_attn",)}.get(
            name.split(".")[-2], ("classifier",)
        )
        hits = [
            other
            for other in expected
            if any(r in other.split(".") for r in role)
            and leaf in other.split(".")
            and (number is None or number in other.split("."))
        ]
        assert len(hits) == 1, (name, hits)
        used.add(hits[0])
        np.testing.assert_allclose(values, expected[hits[0]], atol=1e-3, err_msg=name)
    assert len(used) == len(expected)
