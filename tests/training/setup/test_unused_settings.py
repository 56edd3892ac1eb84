"""Settings without effect are refused by name, where they were given and are not their default."""

import json

import pytest
import yaml

from petrun.config.schema import RunConfig
from petrun.training.setup.unused_settings import UNUSED
from tests.tiny import write_base, write_rows

CLASSIFY = "train --base bert --data reviews.jsonl --rank 2 --steps 1 --out run "
INSTRUCT = "train --base gpt2 --data orders.jsonl --rank 2 --steps 1 --out run "
NOTHING_EVALUATED = ["has no effect: there is no evaluation data", "Give --eval-data FILE, or --eval-split 0.1"]
REFUSED = {
    CLASSIFY + "--set train.patience=2": ["--set train.patience: ", *NOTHING_EVALUATED],
    CLASSIFY + "--set train.best_metric=loss": ["--set train.best_metric: ", *NOTHING_EVALUATED],
    CLASSIFY + "--set train.eval_every_steps=5": ["--set train.eval_every_steps: ", *NOTHING_EVALUATED],
    CLASSIFY + "--set eval.metrics=accuracy": ["--set eval.metrics: ", *NOTHING_EVALUATED],
    CLASSIFY + "--set eval.batch_size=2": ["--set eval.batch_size: ", *NOTHING_EVALUATED],
    CLASSIFY + "--eval-data reviews.jsonl --eval-split 0.5": ["--eval-split: has no effect: --eval-data says already"],
    CLASSIFY + "--set data.loss_on=all": ["--set data.loss_on: has no effect: the task is not instruct"],
    CLASSIFY + "--set eval.max_new_tokens=5": ["--set eval.max_new_tokens: has no effect"],
    CLASSIFY + "--set eval.samples=5": ["--set eval.samples: has no effect"],
    CLASSIFY + "--schedule constant --set optim.min_lr_ratio=0.1": ["--set optim.min_lr_ratio: has no effect"],
    CLASSIFY + "--set parallel.card_memory=64": [
        "--card-memory 64: only --parallel auto asks for the memory of a card"
    ],
    CLASSIFY + "--set model.kwargs.width=3": [
        "--set model.kwargs.width: has no effect: only a factory of your own takes them"
    ],
    CLASSIFY + "--set model.any_bits=true": ["--set model.any_bits: has no effect: without --init-delta"],
    CLASSIFY + "--weight-decay 0 --set optim.decay_all=true": [
        "--set optim.decay_all: has no effect: --weight-decay is 0"
    ],
    CLASSIFY + "--set data.separator=||": ["--set data.separator: has no effect: the data are not lines"],
    CLASSIFY + "--epochs 2": ["--steps and --epochs: a run is as long as one of them says"],
    INSTRUCT + "--pack --set data.buckets=2": ["--set data.buckets: has no effect: --pack fills every sequence"],
    INSTRUCT + "--set data.labels=[a,b]": ["--set data.labels: has no effect: the task is not classify"],
    INSTRUCT + "--set model.fresh_head=true": ["--set model.fresh_head: has no effect"],
    "train r.yaml --out run": ["recipe r.yaml, train.patience: has no effect", "recipe r.yaml, train.best_metric: "],
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(place, refused, line):
    (place / "r.yaml").write_text(
        "model: {base: bert}\ndata: {path: reviews.jsonl}\ntrain: {patience: 2, best_metric: accuracy}\n"
    )
    refused(line, REFUSED[line], code=2)


def test_keys_are_settings():
    known = json.loads(json.dumps(RunConfig.model_json_schema()))["$defs"]
    sections = {name: known[info["$ref"].rpartition("/")[2]] for name, info in _sections()}
    for unread in UNUSED:
        for key in unread.keys:
            section, leaf = key.split(".")
            assert leaf in sections[section]["properties"], key


def _sections():
    properties = RunConfig.model_json_schema()["properties"]
    return [(name, info) for name, info in properties.items() if "$ref" in info]


def test_a_run_is_a_recipe_of_itself(place, petrun):
    """run.yaml states every value, defaults too; none of them is refused."""
    write_base(place / "small", "bert", num_hidden_layers=1)
    write_rows(place / "few.jsonl", [{"text": "a good film", "label": 1}, {"text": "a bad film", "label": 0}])
    done = petrun("train --base small --data few.jsonl --rank 2 --lr 0.01 --steps 1 --out first")
    assert done.code == 0, done.err
    content = yaml.safe_load((place / "first" / "run.yaml").read_text())
    assert content["eval"]["samples"] == 3, "a default of another task, which is no wish"
    done = petrun("train first/run.yaml --out second")
    assert done.code == 0, done.err
    assert (place / "first" / "lora.ckpt").read_bytes() == (place / "second" / "lora.ckpt").read_bytes()
