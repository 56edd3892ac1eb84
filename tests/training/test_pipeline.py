"""From the command line to the files and back, on tiny bases: what a user does, end to end."""

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.cli.app import app
from tests.tiny import ORDERS, REVIEWS, write_base, write_rows


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def petrun(*arguments):
    """One command in this process."""
    try:
        app(args=[str(a) for a in arguments], prog_name="petrun", standalone_mode=False)
    except SystemExit as end:
        assert not end.code


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_classify_from_train_to_merge(tmp_path, capsys):
    base = write_base(tmp_path / "base", "bert")
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": r["text"], "label": ["neg", "pos"][r["label"]]} for r in REVIEWS]
    )
    petrun(
        "train", "--algo", "lora", "--rank", 2, "--base", base, "--data", rows, "--eval-data", rows, "--epochs", 20, "--batch-size", 4,
        "--lr", 0.02, "--out", "run",
    )  # fmt: skip
    run = tmp_path / "run"
    files = {"run.yaml", "log.jsonl", "lora.ckpt", "best.ckpt", "results.json", "state"}
    assert {p.name for p in run.iterdir()} == files
    results = json.loads((run / "results.json").read_text())
    assert results["accuracy"] == results["delta"]["accuracy"] == 1.0 and results["base"]["loss"] > results["loss"]
    log = log_of(run)
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 41))
    known = {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "memory"}
    assert set(steps[0]) == known
    # Of this process: Python with MindSpore takes more than 100 MiB, and the peak never falls.
    assert steps[0]["memory"] > 100 * 2**20 and steps[-1]["memory"] >= steps[0]["memory"]
    assert sum("evaluation" in entry for entry in log) == 21, "before the first step and after every epoch"
    delta = read_delta(run)
    assert delta.manifest.task.labels == ("neg", "pos") and delta.manifest.step == 40
    assert {"classifier.weight", "classifier.bias"} < set(delta.shapes)
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert settings["delta"]["rank"] == 2 and settings["origins"]["delta.rank"] == "--rank"
    assert settings["optim"]["eps"] == 1e-8 and settings["origins"]["optim.eps"] == "default"
    capsys.readouterr()
    petrun("eval", "--base", base, "--delta", run, "--data", rows, "--out", "eval.json")
    shown = capsys.readouterr().out
    assert "base" in shown and "delta" in shown
    scored = json.loads((tmp_path / "eval.json").read_text())
    assert scored["accuracy"] == 1.0 and scored["loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert scored["base"]["loss"] == pytest.approx(results["base"]["loss"], abs=1e-6)
    petrun("predict", "--base", base, "--delta", run, "--data", rows, "--out", "p.jsonl", "--logits", "l.safetensors")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(6))
    assert [line["label"] for line in lines] == ["pos", "neg"] * 3
    assert sum(lines[0]["scores"].values()) == pytest.approx(1.0)
    petrun("merge", "--base", base, "--delta", run, "--out", "merged")
    petrun("merge", "--base", base, "--delta", run, "--out", "merged.ckpt")
    petrun("predict", "--base", "merged", "--data", rows, "--out", "m.jsonl", "--logits", "m.safetensors")
    np.testing.assert_allclose(load_file("m.safetensors")["logits"], load_file("l.safetensors")["logits"], atol=1e-5)
    assert [json.loads(line)["label"] for line in (tmp_path / "m.jsonl").read_text().splitlines()] == ["pos", "neg"] * 3
    (tmp_path / "other").mkdir()
    (tmp_path / "merged.ckpt").rename(tmp_path / "other" / "merged.ckpt")
    (tmp_path / "other" / "config.json").write_bytes((tmp_path / "merged" / "config.json").read_bytes())
    (tmp_path / "other" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    petrun("predict", "--base", "other/merged.ckpt", "--data", rows, "--out", "c.jsonl", "--logits", "c.safetensors")
    np.testing.assert_allclose(load_file("c.safetensors")["logits"], load_file("m.safetensors")["logits"], atol=1e-6)


@pytest.mark.all_only
def test_runs_repeat_bit_for_bit_with_dropout(tmp_path):
    base = write_base(tmp_path / "base", "llama")
    rows = write_rows(tmp_path / "rows.jsonl", ORDERS)
    for out in ("one", "two"):
        petrun("train", "--base", base, "--data", rows, "--steps", 5, "--batch-size", 2, "--dropout", 0.3, "--out", out)
    one, two = read_delta(tmp_path / "one"), read_delta(tmp_path / "two")
    assert one.digest == two.digest
    assert [e["loss"] for e in log_of(tmp_path / "one")] == [e["loss"] for e in log_of(tmp_path / "two")]
    petrun(
        "train",
        "--base",
        base,
        "--data",
        rows,
        "--steps",
        5,
        "--batch-size",
        2,
        "--dropout",
        0.3,
        "--seed",
        1,
        "--out",
        "three",
    )
    assert read_delta(tmp_path / "three").digest != one.digest


def test_instruct_generates_and_scores(tmp_path, capsys):
    base = write_base(tmp_path / "base", "gpt2")
    rows = write_rows(tmp_path / "rows.jsonl", ORDERS)
    # Full, because the tied head of a random base is too small to put a token above all others while it is frozen.
    petrun(
        "train", "--algo", "full", "--base", base, "--data", rows, "--eval-data", rows, "--steps", 60, "--batch-size", 4, "--lr", 0.02,
        "--format", "safetensors", "--set", "eval.metrics=[loss, token_accuracy, exact_match]", "--set", "eval.max_new_tokens=6",
        "--set", "train.eval_every_steps=500", "--out", "run",
    )  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (tmp_path / "run" / "full.safetensors").exists()
    assert results["base"]["exact_match"] == 0.0 and results["exact_match"] == 1.0
    petrun("predict", "--base", base, "--delta", "run", "--data", rows, "--out", "p.jsonl", "--max-new-tokens", 6)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == [row["completion"] for row in ORDERS]
    petrun("predict", "--base", base, "--data", rows, "--out", "b.jsonl", "--max-new-tokens", 6)
    assert (tmp_path / "b.jsonl").read_text() != (tmp_path / "p.jsonl").read_text()


def test_packing_gives_the_same_loss_before_training(tmp_path):
    """Packed rows see only themselves: the first loss over all rows is the same packed or not."""
    base = write_base(tmp_path / "base", "llama")
    rows = write_rows(tmp_path / "rows.jsonl", [*ORDERS, *ORDERS[:2]])
    first = []
    for out, flags in (("plain", []), ("packed", ["--pack"])):
        petrun(
            "train",
            "--base",
            base,
            "--data",
            rows,
            "--steps",
            1,
            "--batch-size",
            8,
            "--seq-len",
            48,
            "--out",
            out,
            *flags,
        )
        first.append(log_of(tmp_path / out)[0])
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)
    assert first[0]["tokens"] == first[1]["tokens"]


@pytest.mark.all_only
def test_accumulation_is_exact(tmp_path):
    base = write_base(tmp_path / "base", "llama")
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a" * i, "completion": "b" * (7 - i)} for i in range(1, 7)])
    common = ["train", "--base", base, "--data", rows, "--steps", 3, "--no-shuffle", "--lr", 0.01]
    petrun(*common, "--batch-size", 6, "--out", "whole")
    petrun(*common, "--batch-size", 2, "--accumulate", 3, "--out", "parts")
    losses = [[e["loss"] for e in log_of(tmp_path / out)] for out in ("whole", "parts")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_early_stopping_keeps_the_best(tmp_path, capsys):
    base = write_base(tmp_path / "base", "bert")
    rows = write_rows(tmp_path / "rows.jsonl", REVIEWS)
    wrong = write_rows(tmp_path / "wrong.jsonl", [{**row, "label": 1 - row["label"]} for row in REVIEWS])
    petrun(
        "train", "--base", base, "--data", rows, "--eval-data", wrong, "--epochs", 30, "--batch-size", 6, "--lr", 0.02, "--out", "run",
        "--set", "train.patience=2", "--set", "train.best_metric=loss",
    )  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] < 30 and "no better loss in 2 evaluations" in results["stopped"]
    best = read_delta(tmp_path / "run" / "best.ckpt").manifest
    assert best.step == results["best"]["step"] and best.metrics["loss"] == pytest.approx(results["best"]["loss"])
    assert best.metrics["loss"] <= results["loss"]


def test_a_starting_delta_keeps_its_own_settings(tmp_path):
    base = write_base(tmp_path / "base", "llama")
    rows = write_rows(tmp_path / "rows.jsonl", ORDERS)
    common = ["--base", base, "--data", rows, "--batch-size", 4, "--steps", 2]
    petrun("train", *common, "--rank", 3, "--target", "k,up", "--out", "first")
    petrun(
        "train",
        *common,
        "--init-delta",
        "first",
        "--dropout",
        0.0,
        "--algo",
        "lora",
        "--target",
        "k_proj,up_proj",
        "--out",
        "second",
    )
    one, two = read_delta(tmp_path / "first"), read_delta(tmp_path / "second")
    assert two.manifest.config["rank"] == 3 and set(two.shapes) == set(one.shapes)
    first, second = log_of(tmp_path / "first"), log_of(tmp_path / "second")
    assert second[0]["loss"] < first[0]["loss"]


def test_full_fine_tuning_saves_and_merges_the_whole_model(tmp_path):
    base = write_base(tmp_path / "base", "gpt2")
    rows = write_rows(tmp_path / "rows.jsonl", ORDERS)
    petrun("train", "--algo", "full", "--base", base, "--data", rows, "--steps", 3, "--batch-size", 4, "--out", "run")
    petrun("merge", "--base", base, "--delta", "run", "--out", "merged")
    for name, flags in (("d", ["--base", base, "--delta", "run"]), ("m", ["--base", "merged"])):
        petrun("predict", *flags, "--task", "instruct", "--data", rows, "--logits", f"{name}.safetensors", "--out", f"{name}.jsonl",
               "--max-new-tokens", 2)  # fmt: skip
    np.testing.assert_allclose(load_file("d.safetensors")["logits"], load_file("m.safetensors")["logits"], atol=1e-5)


def test_inspect_and_dry_run_say_what_is_there(tmp_path, capsys):
    base = write_base(tmp_path / "base", "bert")
    rows = write_rows(tmp_path / "rows.jsonl", REVIEWS)
    petrun("train", "--base", base, "--data", rows, "--dry-run")
    shown = capsys.readouterr().out
    assert "shapes" in shown and "this film is good" in shown and not (tmp_path / "runs").exists()
    petrun("train", "--base", base, "--data", rows, "--steps", 1)
    capsys.readouterr()
    petrun("inspect", "runs/lora-1", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["algorithm"] == "lora" and found["settings"]["rank"] == 8 and found["task"] == "classify"
    petrun("inspect", base)
    assert "bert" in capsys.readouterr().out
