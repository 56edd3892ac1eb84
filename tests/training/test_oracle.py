"""The whole pipe against PyTorch + transformers + peft: logits, merged weights, training losses and trained tensors.

Every number comes from ../shared/oracle, and of the families that are not there from cases that its make_oracle.py makes, in the folder
that PETRUN_ORACLE_CASES names. The tests run through the commands' own functions, as a user's job does.
"""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petrun.checkpoint.delta import read_delta
from petrun.commands import merge, predict, train
from petrun.config.commands.evaluate import PredictSettings
from petrun.config.commands.merge import MergeSettings
from petrun.config.commands.train import TrainSettings
from petrun.interop.convert import to_net_names
from petrun.models.families import FAMILIES as FAMILY_RECORDS

FAMILIES = ["bert", "gpt2", "llama", "qwen2"]
MADE = ["opt", "bloom", "glm", "glm4", "phi3", "gemma", "gemma2", "gemma3_text", "roberta", "xlm-roberta"]
"""Families whose cases have to be made first."""
CLASSIFIERS = ["bert", "roberta", "xlm-roberta"]
LORA = ["lora", "rslora", "dora"]
TRAINED = [*LORA, "ia3", "ptuning2", "prompt"]
# Of prefix and ptuning the files hold what an encoder gave: enough to predict, not to go on training it; peft's AdaLoRA has another
# regulariser.
DELTAS = [None, *TRAINED, "prefix", "ptuning", "adalora"]


def matrix(deltas, *more):
    """Every family with every delta; by default LoRA in every family and the others in one each, taking turns, as modes do."""
    for i, delta in enumerate(deltas):
        for j, family in enumerate((*FAMILIES, *MADE)):
            for k, rest in enumerate(itertools.product(*more)):
                by_default = family in FAMILIES and (
                    (delta == "lora" and k == (j % 2 if more else 0)) or (i + k) % len(FAMILIES) == j
                )
                marks = () if by_default else pytest.mark.all_only
                label = "-".join(str(part) for part in (family, delta, *rest))
                yield pytest.param(family, delta, *rest, marks=marks, id=label)


@pytest.fixture
def case(shared, tmp_path, monkeypatch):
    """(family) -> (case folder, a JSONL file with the case's batch)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def prepare(family):
        folder = folder_of(shared, family)
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


def folder_of(shared, family):
    """The family's cases. Skips the test where there are none."""
    roots = [shared / "oracle" / "cases", *map(Path, filter(None, [os.environ.get("PETRUN_ORACLE_CASES")]))]
    found = [root / family for root in roots if (root / family).is_dir()]
    if not found:
        pytest.skip(f"make the cases of {family}: make_oracle.py; PETRUN_ORACLE_CASES names their folder")
    return found[0]


def present(folder, delta):
    """Skip a method for which make_oracle.py could not make a case."""
    if delta is not None and not (folder / delta).is_dir():
        pytest.skip(f"{folder} has no case of {delta}")


def flags(**values):
    return {key.replace("__", "."): (f"--{key}", value) for key, value in values.items()}


@pytest.mark.parametrize(("family", "delta"), list(matrix(DELTAS)))
def test_logits_and_loss(case, tmp_path, family, delta):
    folder, rows, batch = case(family)
    present(folder, delta)
    predict.run(
        PredictSettings(
            flags=flags(model__base=str(folder / "base"), data__path=rows),
            delta=str(folder / delta) if delta else None,
            out=str(tmp_path / "out.jsonl"),
            logits=str(tmp_path / "logits.safetensors"),
        )
    )
    expected = load_file(folder / delta / "out.safetensors" if delta else folder / "base_out.safetensors")
    found = load_file(tmp_path / "logits.safetensors")["logits"]
    # peft gives a decoder's logits for the virtual tokens of a prompt as well; the last are the real tokens'.
    wanted = expected["logits"] if family in CLASSIFIERS else expected["logits"][:, -batch["input_ids"].shape[1] :]
    assert found.shape == wanted.shape
    seen = slice(None) if family in CLASSIFIERS else batch["attention_mask"] == 1
    np.testing.assert_allclose(found[seen], wanted[seen], atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    if family in CLASSIFIERS:
        assert [line["label"] for line in lines] == expected["logits"].argmax(-1).tolist()
    elif delta != "adalora":
        # Of adalora, peft's loss holds its regulariser as well.
        tokens = sum(line["tokens"] for line in lines)
        loss = sum(line["loss"] * line["tokens"] for line in lines) / tokens
        assert loss == pytest.approx(float(expected["loss"][0]), abs=1e-4)


@pytest.mark.parametrize(("family", "delta"), list(matrix(LORA)))
def test_merged_weights(case, tmp_path, family, delta):
    folder, _, _ = case(family)
    out = tmp_path / "merged"
    merge.run(MergeSettings(base=str(folder / "base"), deltas=(str(folder / delta),), out=str(out)))
    expected = load_file(folder / delta / "merged.safetensors")
    found = load_file(out / "model.safetensors")
    assert set(found) <= set(expected)
    # transformers keeps a tied head as a second name for the embedding.
    assert {name.rpartition(".")[0] for name in set(expected) - set(found)} <= {"lm_head"}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("family", "delta", "mode"), list(matrix(TRAINED, ["graph", "pynative"])))
def test_five_training_steps(case, tmp_path, monkeypatch, family, delta, mode):
    if mode == "pynative":
        from petrun.parallel import context

        real = context.setup
        monkeypatch.setattr(context, "setup", lambda *a, **k: real(*a, **{**k, "pynative": True}))
    folder, rows, _ = case(family)
    present(folder, delta)
    wanted = json.loads((folder / delta / "train.json").read_text())
    given = flags(
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
        **({"delta__dropout": 0.0} if delta in LORA else {}),
        out__dir="run",
        out__format="safetensors",
    )
    train.run(TrainSettings(flags=given, sets=("optim.decay_all=true",)))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    np.testing.assert_allclose(losses, wanted["losses"], rtol=1e-3)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trainable_parameters"] == wanted["trainable_parameters"]
    check_trained(family, folder, delta, tmp_path)


def check_trained(family, folder, delta, tmp_path):
    """Every trained tensor within 1e-3. peft's, saved as an adapter, are read as its adapters are."""
    kinds = next(kinds for kinds in FAMILY_RECORDS.values() if family in kinds.model_types)
    parsed = kinds.parse(json.loads((folder / "base" / "config.json").read_text()))
    tensors = load_file(folder / delta / "trained.safetensors")
    renamed = {"prompt_encoder.default.embedding.weight": "prompt_embeddings"}
    adapter = tmp_path / "trained"
    adapter.mkdir()
    save_file(
        # As peft saves them: of a head, RoBERTa's has several layers, the wrapper's name goes with the adapter's.
        {
            renamed.get(name, name.replace(".modules_to_save.default", "").replace(".default", "")): values
            for name, values in tensors.items()
        },
        adapter / "adapter_model.safetensors",
    )
    shutil.copy(folder / delta / "adapter_config.json", adapter)
    expected = to_net_names(read_delta(adapter), kinds.names(parsed), kinds.prefixes, sites=kinds.sites(parsed))
    (file,) = (tmp_path / "run").glob("*.safetensors")
    found = read_delta(file)
    assert file.stem == found.algo == expected.algo
    assert set(found.tensors) == set(expected.tensors)
    assert sum(np.prod(shape) for shape in found.shapes.values()) == sum(v.size for v in tensors.values())
    for name, values in found.tensors.items():
        np.testing.assert_allclose(values, expected.tensors[name], atol=1e-3, err_msg=name)
