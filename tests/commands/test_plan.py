"""`petrun plan` says what a run then does, loads no weights, writes nothing, and fails where the run could not work."""

import json

import pytest

from tests.program import cut, snapshot


def plan(petrun, flags):
    done = petrun(f"plan {flags} --json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_plan_says_what_the_run_did(place, petrun):
    """The reference is the run itself: its results, its receipt and its run.yaml."""
    before = snapshot(place)
    found = plan(petrun, "--base gpt2 --data orders.jsonl --rank 2 --steps 1")
    assert snapshot(place) == before
    results = json.loads((place / "gpt2-lora" / "results.json").read_text())
    assert found["delta"]["trained"] == results["trainable_parameters"]
    assert found["model"]["parameters"] == results["all_parameters"]
    assert found["delta"]["targets"] == results["receipt"]["targets"]
    assert found["data"] == results["receipt"]["rows"]
    assert (found["batches"]["steps"], found["batches"]["epochs"]) == (results["steps"], results["epochs"])
    assert (
        sum(group["count"] * group["trained"] for group in found["delta"]["layers"]) == results["trainable_parameters"]
    )
    written = {path.name for path in (place / "gpt2-lora").iterdir()} - {"logs"}
    assert written == {name.rstrip("/") for name in found["files"]["names"]}
    assert found["settings"]["delta.rank"] == {"value": 2, "origin": "--rank"}
    assert found["settings"]["optim.beta1"] == {"value": 0.9, "origin": "default"}


def test_weights_are_not_read(place, petrun):
    cut(place / "gpt2" / "model.safetensors", 100)
    assert plan(petrun, "--base gpt2 --data orders.jsonl")["delta"]["layers"][0] == {
        "pattern": "layers.*.attn.qkv",
        "count": 2,
        "inputs": 16,
        "outputs": 48,
        "trained": 8 * (16 + 48),
    }


def test_the_text_has_the_lines_of_a_dry_run_and_more(place, petrun):
    flags = "--base bert --data reviews.jsonl --rank 2 --batch-size 2"
    shown, dry = petrun(f"plan {flags}"), petrun(f"train {flags} --dry-run")
    lines = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in shown.out.splitlines()}
    for line in dry.out.splitlines():
        name, _, text = line.partition("  ")
        if name in ("delta", "data", "shapes", "steps", "rate"):
            assert lines[name] == text.strip()
    for name in ("targets", "compile", "batch", "layout", "files", "disk", "optim.beta2"):
        assert name in lines, shown.out


def test_cards_that_are_not_here_are_planned(place, petrun):
    found = plan(petrun, "--base llama --data orders.jsonl --device ascend --cards 4 --parallel tp=2 --out new")
    assert (found["layout"]["dp"], found["layout"]["tp"], found["layout"]["ranks"]) == (2, 2, 4)
    assert (found["model"]["compute_dtype"], found["model"]["device"]) == ("bfloat16", "ascend")
    assert found["memory"]["available"] == 64 * 2**30


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (
            "--base gpt2 --data orders.jsonl --fit 1M",
            ["the run could not work: it needs about", "there are 1.0 MiB", "Train less of it"],
            2,
        ),
        ("--base gpt2 --data orders.jsonl --fit much", ["--fit much: is no amount of memory", "Example: --fit 32G"], 2),
        ("--base gpt2 --data orders.jsonl --target nothing", ["--target", "nothing"], 1),
        ("--base gpt2 --data orders.jsonl --out gpt2-lora", ["holds a finished run"], 1),
        ("--base gpt2 --data none.jsonl", ["none.jsonl"], 1),
        (
            "--base llama --data orders.jsonl --algo adalora --device ascend --cards 2 --parallel tp=2 --out new",
            ["adalora weighs whole matrices at each update"],
            2,
        ),
        ("--base llama --data orders.jsonl --device ascend --cards 3 --parallel tp=2 --out new", ["tp=2"], 2),
    ],
)
def test_a_run_that_could_not_work_ends_with_its_code(refused, flags, words, code):
    refused(f"plan {flags}", words, code)


def test_a_delta_to_start_from_and_a_net_of_the_users_own_are_planned(place, petrun):
    found = plan(petrun, "--base gpt2 --data orders.jsonl --init-delta gpt2-lora")
    assert found["delta"]["settings"]["rank"] == 2 and "another delta" in found["memory"]["unknown"]
