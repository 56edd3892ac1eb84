"""Preference rows from the command line: training, the same figures from eval, a resumed run, and what is refused."""

import json

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from tests.tiny import write_rows

PAIRS = [
    {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": f"{a}{b}"} for a, b in ((1, 2), (2, 2), (3, 4), (5, 1))
]
TRAIN = "train --base gpt2 --data pairs.jsonl --rank 2 --batch-size 2 --lr 0.01 "


@pytest.fixture
def pairs(place):
    write_rows(place / "pairs.jsonl", PAIRS)
    return place


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_chosen_answers_gain_and_eval_gives_the_figures_of_the_run(pairs, petrun):
    done = petrun(TRAIN + "--eval-data pairs.jsonl --epochs 8 --out run")
    assert done.code == 0, done.err
    records = log(pairs / "run")
    steps = [record for record in records if "loss" in record]
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6), (
        "before the first update no answer has gained anything"
    )
    assert steps[-1]["loss"] < 0.6
    before, after = ([r["evaluation"] for r in records if "evaluation" in r][i] for i in (0, -1))
    assert before["reward_margin"] == before["reward_accuracy"] == 0.0
    assert after["reward_accuracy"] == 1.0 and after["reward_margin"] > 0.5
    assert read_delta(pairs / "run").manifest.task.name == "preference"
    done = petrun("eval --base gpt2 --delta run --data pairs.jsonl --out scores.json --json")
    assert done.code == 0, done.err
    scores = json.loads((pairs / "scores.json").read_text())
    assert json.loads(done.out) == scores
    for name, value in after.items():
        assert scores["delta"][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    # A delta of preferences answers prompts as any other.
    write_rows(pairs / "prompts.jsonl", [{"prompt": "1+2="}])
    assert petrun("predict --base gpt2 --delta run --data prompts.jsonl --out p.jsonl --max-new-tokens 2").code == 0
    assert petrun("predict --base gpt2 --delta run --data pairs.jsonl --out q.jsonl --max-new-tokens 2").code == 0
    assert len((pairs / "q.jsonl").read_text().splitlines()) == len(PAIRS)


def test_rows_with_one_answer_train_resume_and_evaluate(pairs, petrun):
    write_rows(
        pairs / "marked.jsonl",
        [
            {"prompt": row["prompt"], "completion": row["rejected" if i % 2 else "chosen"], "label": not i % 2}
            for i, row in enumerate(PAIRS)
        ],
    )
    line = TRAIN.replace("pairs", "marked") + "--loss kto --schedule constant --save-every 2 --set eval.samples=0 "
    done = petrun(line + "--steps 4 --eval-data marked.jsonl --out whole")
    assert done.code == 0, done.err
    records = log(pairs / "whole")
    assert next(r["loss"] for r in records if "loss" in r) == pytest.approx(0.5, abs=1e-6), "no answer has gained yet"
    before, after = ([r["evaluation"] for r in records if "evaluation" in r][i] for i in (0, -1))
    assert before["desirable_margin"] == before["kl"] == 0.0
    assert after["desirable_margin"] > 0.5
    assert after["desirable_margin"] == pytest.approx(after["desirable_gain"] - after["undesirable_gain"])
    done = petrun("eval --base gpt2 --delta whole --data marked.jsonl --out scores.json")
    assert done.code == 0, done.err
    scores = json.loads((pairs / "scores.json").read_text())["delta"]
    for name, value in after.items():
        assert scores[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    assert petrun(line + "--steps 2 --eval-data marked.jsonl --out part").code == 0
    done = petrun("resume part --set train.steps=4 --allow train.steps")
    assert done.code == 0, done.err
    first, second = (read_delta(pairs / name).tensors for name in ("whole", "part"))
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name
    for flags, words in (
        ("--loss dpo", "have one answer and a label"),
        ("--loss kto --batch-size 1", "--batch-size 1: kto compares each answer with the mean"),
        ("--loss kto --pack", "--pack: a row of preference"),
        ("--loss kto --set preference.sft_weight=1", "preference.sft_weight: has no effect"),
    ):
        done = petrun(f"train --base gpt2 --data marked.jsonl --rank 2 {flags}")
        assert done.code == 2 and words in done.err, done.err


@pytest.mark.all_only
def test_several_deltas_are_compared_with_the_base(pairs, petrun):
    for seed in (0, 1):
        assert petrun(TRAIN + f"--steps 3 --seed {seed} --out run{seed}").code == 0
    done = petrun("eval --base gpt2 --delta run0 --delta run1 --data pairs.jsonl --out both.json --json")
    assert done.code == 0, done.err
    both = json.loads((pairs / "both.json").read_text())
    assert json.loads(done.out) == both
    assert both["base"]["reward_margin"] == 0.0
    for seed in (0, 1):
        assert petrun(f"eval --base gpt2 --delta run{seed} --data pairs.jsonl --out one.json").code == 0
        one = json.loads((pairs / "one.json").read_text())["delta"]
        for name, value in both["deltas"][f"run{seed}"].items():
            assert one[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


@pytest.mark.all_only
@pytest.mark.parametrize("start", ["", "--init-delta gpt2-lora "])
def test_a_resumed_run_ends_with_the_same_bits(pairs, petrun, start):
    """The net that the answers are compared with is the one before the first step, not the one of the state."""
    line = TRAIN.replace("--rank 2 ", "" if start else "--rank 2 ") + start + "--schedule constant "
    assert petrun(line + "--steps 4 --save-every 2 --out whole").code == 0
    assert petrun(line + "--steps 2 --save-every 2 --out part").code == 0
    assert petrun("resume part --set train.steps=4 --allow train.steps").code == 0
    first, second = (read_delta(pairs / name).tensors for name in ("whole", "part"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        (TRAIN + "--pack", ["--pack: a row of preference fills a sequence with its two answers"], 2),
        (TRAIN + "--algo lora+r_drop --dropout 0.1", ["preference has a loss of its own"], 2),
        (TRAIN + "--set preference.gamma=1", ["preference.gamma: has no effect: only the loss simpo reads it"], 2),
        (TRAIN + "--loss orpo --set preference.label_smoothing=0.1", ["only the loss dpo reads it"], 2),
        (
            TRAIN + "--loss kto",
            ["the rows of", "have a chosen and a rejected answer", "dpo or ipo or simpo or orpo"],
            2,
        ),
        (TRAIN + "--set preference.desirable_weight=2", ["only the loss kto reads it"], 2),
        (TRAIN + "--set data.loss_on=all", ["data.loss_on: has no effect"], 2),
        (
            "train --base gpt2 --data orders.jsonl --rank 2 --loss ipo",
            ["--loss: has no effect: the task is not prefer"],
            2,
        ),
        (
            "train --base gpt2 --data orders.jsonl --task preference",
            ["preference needs prompt, chosen and rejected"],
            1,
        ),
        (
            "train --base bert --data pairs.jsonl",
            ["stand for the task preference, which this model family cannot do"],
            1,
        ),
        ("rehearse --base gpt2 --data pairs.jsonl --parallel dp=2", ["--task preference is not rehearsed"], 2),
    ],
)
def test_refused(pairs, refused, line, words, code):
    refused(line, words, code)
