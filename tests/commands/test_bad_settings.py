"""Flags, keys, recipes, metrics and places for results that are wrong: exit code 2 for what is typed, 1 for what is found."""

import os
import shutil
import tempfile

import pytest

TRAIN = "train --base bert --data reviews.jsonl --out run"
EVAL = "eval --base bert --delta bert-lora --data reviews.jsonl"
PREDICT = "predict --base bert --delta bert-lora --data reviews.jsonl"
# what follows TRAIN: words of the message; the exit code is 2
FLAGS = {
    "--algo loar": ["--algo: unknown algorithm 'loar'. Did you mean lora"],
    "--algo lora+full": ["--algo: algorithm 'lora+full': lora and full cannot be joined"],
    "--algo lora+lora": ["--algo: algorithm 'lora+lora': lora stands twice"],
    "--algo prefix --rank 4": ["--rank: unknown key delta.rank for --algo prefix"],
    "--algo prompt --tokens 0": ["--tokens: 0 is not valid: must be at least 1"],
    "--algo ptuning2 --tokens 5000": ["5000 virtual tokens leave no room in the model's", "--tokens 20"],
    "--algo ptuning --set delta.encoder=gru": ["--set delta.encoder: 'gru' is not valid"],
    "--algo adapter --set delta.activation=gleu": ["delta.activation"],
    "--algo adalora --steps 3 --set delta.tinit=2 --set delta.tfinal=2": ["delta.tinit"],
    "--rank 0": ["--rank: 0 is not valid: must be at least 1"],
    "--rank -1": ["--rank: -1 is not valid: must be at least 1"],
    "--rank abc": ["Invalid value for '--rank'"],
    "--alpha 0": ["--alpha: 0.0 is not valid: alpha must be a finite number other than 0"],
    "--alpha nan": ["--alpha: nan is not valid: must be a finite number"],
    "--dropout 1": ["--dropout: 1.0 is not valid: must be below 1"],
    "--lr 0": ["--lr: 0.0 is not valid: must be above 0"],
    "--lr inf": ["--lr: inf is not valid: must be a finite number"],
    "--epochs inf": ["--epochs: inf is not valid: must be a finite number"],
    "--epochs 0": ["--epochs: 0.0 is not valid: must be above 0"],
    "--steps 0": ["--steps: 0 is not valid: must be at least 1"],
    "--batch-size 0": ["--batch-size: 0 is not valid"],
    "--accumulate 0": ["--accumulate: 0 is not valid"],
    "--weight-decay inf": ["--weight-decay: inf is not valid"],
    "--clip -1": ["--clip: -1.0 is not valid: must be at least 0"],
    "--warmup nan": ["--warmup: nan is not valid"],
    "--seed -1": ["--seed: -1 is not valid"],
    "--seed 99999999999": ["--seed: 99999999999 is not valid: must be below 2147483648"],
    "--device gpu": ["--device: 'gpu' is not valid: must be 'cpu' or 'ascend'. Did you mean cpu?"],
    "--task clasify": ["--task: 'clasify' is not valid", "Did you mean classify?"],
    "--schedule step": ["--schedule: 'step' is not valid", "cosine"],
    "--format pt": ["--format: 'pt' is not valid: must be 'ckpt' or 'safetensors'"],
    "--eval-split 1": ["--eval-split: 1.0 is not valid: must be below 1"],
    "--rnk 3": ["No such option: --rnk", "--rank"],
    "--data ''": ["--data is missing: the file of training examples"],
    "another.yaml": ["no recipe another.yaml: neither a file nor a shipped recipe", "`petrun recipes ls` lists them"],
    "--set optim.bta2=1": ["--set optim.bta2: unknown key optim.bta2. Did you mean optim.beta2"],
    "--set optm.lr=1": ["unknown key optm.lr. Did you mean optim.lr"],
    "--set lr=1": ["unknown key lr. Did you mean optim.lr"],
    "--set delta=5": ["unknown key delta. Did you mean"],
    "--set optim.beta2": ["--set optim.beta2 is not of the form KEY=VALUE", "Example: --set optim.beta2=0.95"],
    "--set =3": ["--set =3 is not of the form KEY=VALUE"],
    "--set optim.beta2=1.5": ["--set optim.beta2: 1.5 is not valid: must be below 1"],
    "--set optim.beta2=abc": ["--set optim.beta2: 'abc' is not valid: must be a number"],
    "--set delta.rank=[1]": ["--set delta.rank: [1] is not valid: must be a whole number"],
    "--set delta.rank_pattern=5": ["--set delta.rank_pattern: 5 is not valid: must be a mapping"],
    "--set data.format=excel": ["--set data.format: 'excel' is not valid", "'csv'"],
    "--set data.columns.text=5": ["--set data.columns.text: 5 is not valid: must be text"],
    "--set model.dtype=fp8": ["--set model.dtype: 'fp8' is not valid", "float16"],
    "--set eval.metrics=acuracy": ["metric acuracy is unknown. Did you mean accuracy", "Metrics of classify: accuracy"],
    "--set eval.metrics=bleu": ["metric bleu is for instruct, not for classify"],
    "--set train.best_metric=bleu": ["metric bleu is for instruct"],
    "--algo full --rank 8": ["--rank: unknown key delta.rank for --algo full"],
    "--rank 0 --lr -1 --batch-size 0": ["--rank: 0", "--lr: -1.0", "--batch-size: 0"],
}


@pytest.mark.parametrize("flags", FLAGS)
def test_flags(refused, flags):
    refused(f"{TRAIN} {flags}", FLAGS[flags], code=2)


# what follows TRAIN, found only when the net is there; the exit code is 1
TARGETS = {
    "--target qq": ["--target qq matches no linear layer. Did you mean q?", "Roles of this model: q, k, v"],
    "--target q,vv": ["--target vv matches no linear layer. Did you mean v?"],
    "--target ''": ["--target names nothing", "Roles of this model"],
    "--target 'layers.9.*'": ["--target layers.9.* matches no linear layer. Did you mean layers."],
    "--exclude q,v": ["--exclude takes away every layer that --target q,v matched"],
    "--exclude zz": ["--exclude zz matches none of the targets"],
    "--set delta.rank_pattern.nix=3": ["delta.rank_pattern: nix is none of the adapted layers"],
    "--set delta.alpha_pattern.layers.0.attn.k=3": [
        "delta.alpha_pattern: layers.0.attn.k is none",
        "Did you mean layers.",
    ],
    "--train-also nix": ["--train-also nix matches no parameter"],
    "--device ascend": ["--device ascend: MindSpore finds no Ascend card here", "use --device cpu"],
}


@pytest.mark.parametrize("flags", TARGETS)
def test_targets(refused, flags):
    refused(f"{TRAIN} {flags}", TARGETS[flags])


RECIPES = {
    "empty": ("", ["recipe r.yaml is empty"]),
    "a list": ("- a\n", ["recipe r.yaml must be a mapping of sections"]),
    "unknown key": ("optim: {lr: 0.1, bta: 1}\n", ["recipe r.yaml: unknown key optim.bta. Did you mean optim.beta"]),
    "unknown section": ("optm: {lr: 0.1}\n", ["recipe r.yaml: unknown key optm.lr. Did you mean optim.lr"]),
    "a key twice": ("optim:\n  lr: 0.1\n  lr: 0.2\n", ["recipe r.yaml, line 3: key 'lr' stands twice"]),
    "truncated": ("optim: {lr: 0.1\n", ["recipe r.yaml, line 2: expected ',' or '}'"]),
    "a tab": ("optim:\n\tlr: 1\n", ["recipe r.yaml, line 2: found character '\\t'"]),
    "UTF-16": ("optim: {lr: 0.1}\n".encode("utf-16"), ["recipe r.yaml is not UTF-8 text (byte 0)", "saved as UTF-8"]),
    "a wrong type": ("optim: {lr: fast}\n", ["recipe r.yaml, optim.lr: 'fast' is not valid: must be a number"]),
    "a scalar section": ("optim: 5\n", ["recipe r.yaml: unknown key optim. Did you mean optim.lr"]),
    "rank 0": ("delta: {rank: 0}\n", ["recipe r.yaml, delta.rank: 0 is not valid: must be at least 1"]),
    "a number as key": ("5: 3\n", ["r.yaml: key 5 must be a word"]),
    "a Python object": (
        "optim: !!python/object:os.system {}\n",
        ["recipe r.yaml, line 1: could not determine a constructor"],
    ),
    "an algorithm that is a list": ("algo: [lora]\n", ["unknown algorithm ['lora']"]),
    "a base that is gone": ("model: {base: nix}\ndata: {path: reviews.jsonl}\n", ["nix: no such file or folder"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(place, refused, name):
    content, words = RECIPES[name]
    (place / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused("train r.yaml", words, code=1 if "gone" in name else 2)


# a whole command: (exit code, words)
COMMANDS = {
    "train nix.yaml": (2, ["no recipe nix.yaml"]),
    "train bert": (2, ["bert is a folder, not a recipe", "Give the YAML file in it"]),
    "train --base bert": (2, ["--data is missing: the file of training examples", "Example: --data train.jsonl"]),
    "train --eval-data reviews.jsonl": (2, ["--eval-data without --data"]),
    "recipes show nix": (2, ["no recipe nix", "`petrun recipes ls` lists them"]),
    "trian": (2, ["No such command 'trian'", "train"]),
    "inspect": (2, ["Missing argument"]),
    f"{EVAL} --metrics acuracy": (2, ["metric acuracy is unknown. Did you mean accuracy", "Metrics of classify"]),
    f"{EVAL} --metrics bleu": (2, ["metric bleu is for instruct, not for classify"]),
    "eval --base gpt2 --delta gpt2-lora --data orders.jsonl --metrics accuracy,matthews": (
        2,
        ["metric accuracy is for classify, not for instruct", "metric matthews is", "Metrics of instruct: loss"],
    ),
    # places for results
    PREDICT: (2, ["--out is missing: the file to write predictions to", "Example: --out predictions.jsonl"]),
    f"{PREDICT} --out bert": (1, ["--out bert is a folder", "Give a file name"]),
    f"{PREDICT} --out nix/p.jsonl": (1, ["--out nix/p.jsonl: the folder nix does not exist", "Create it"]),
    f"{PREDICT} --out reviews.jsonl/p": (1, ["the folder reviews.jsonl is a file, not a folder"]),
    f"{PREDICT} --out reviews.jsonl": (1, ["--out reviews.jsonl: would replace what this command reads"]),
    f"{PREDICT} --out bert/config.json": (1, ["--out bert/config.json: would replace what this command reads"]),
    f"{PREDICT} --out bert-lora/log.jsonl": (1, ["or what a training run left", "nothing was touched"]),
    f"{PREDICT} --out /dev/null": (1, ["/dev/null: is not a file but a device or a pipe"]),
    f"{PREDICT} --out /proc/p.jsonl": (1, ["/proc/p.jsonl: cannot be written"]),
    f"{PREDICT} --logits l.bin": (2, ["--logits l.bin must end in .safetensors"]),
    f"{PREDICT} --logits nix/l.safetensors": (1, ["--logits nix/l.safetensors: the folder nix does not exist"]),
    f"{PREDICT} --logits bert/model.safetensors": (1, ["--logits bert/model.safetensors: would replace"]),
    f"{PREDICT} --out p --max-new-tokens 0": (2, ["--max-new-tokens: 0 is not valid: must be at least 1"]),
    f"{EVAL} --out bert": (1, ["--out bert is a folder"]),
    f"{EVAL} --out {'r' * 300}": (1, ["cannot be written: File name too long", "Choose a shorter name"]),
    f"{EVAL} --out bert-lora/results.json": (1, ["--out bert-lora/results.json: would replace"]),
    "train --base bert --data reviews.jsonl --out bert-lora": (
        1,
        ["--out bert-lora holds a finished run", "Give another folder"],
    ),
    "train --base bert --data reviews.jsonl --out gpt2": (1, ["--out gpt2 is not empty and holds no petrun run"]),
    "train --base bert --data reviews.jsonl --out reviews.jsonl": (1, ["--out reviews.jsonl is a file, not a folder"]),
    "train --base bert --data reviews.jsonl --out reviews.jsonl/run": (
        1,
        ["cannot write to --out reviews.jsonl/run", "is a file"],
    ),
    "train --base bert --data reviews.jsonl --out /proc/run": (1, ["cannot write to --out /proc/run"]),
    f"train --base bert --data reviews.jsonl --out {'r' * 300}": (
        1,
        ["cannot write to --out rrr", "File name too long"],
    ),
    "train --base bert --data nix.jsonl --out a/b/c": (1, ["nix.jsonl: no such data file"]),
    "train --base bert --data nix.jsonl": (1, ["nix.jsonl: no such data file"]),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(refused, line):
    code, words = COMMANDS[line]
    refused(line, words, code)


def test_a_place_without_the_right_to_write(refused, monkeypatch):
    """Permission bits do not bind root, so the system's refusal is made here."""

    def deny(*_, **__):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(tempfile, "mkstemp", deny)
    refused(TRAIN, ["cannot write to --out run: Permission denied", "Give a folder that you may write"])
    refused(f"{PREDICT} --out p.jsonl", ["p.jsonl: cannot be written: Permission denied", "you may write to"])


def test_a_run_that_did_not_finish_keeps_its_delta(place, refused):
    (place / "bert-lora" / "results.json").unlink()
    line = "train --base bert --data reviews.jsonl --out bert-lora"
    refused(
        line, ["bert-lora was begun with other settings or data:", "delta.rank: 2 -> 8", "--allow delta.rank"], code=2
    )
    # A run of before there were states.
    shutil.rmtree(place / "bert-lora" / "state")
    words = "--out bert-lora holds a run that did not finish, with a delta that it saved: lora.ckpt"
    refused(line, [words, "move what it saved"])


def test_a_model_that_is_not_named_beside_a_checkpoint(place, refused):
    """A checkpoint with neither config.json nor --model: what to add is said."""
    (place / "alone").mkdir()
    shutil.copy(place / "bert" / "model.safetensors", place / "alone")
    refused(TRAIN.replace("bert", "alone/model.safetensors"), ["alone/config.json: no such file", "model.config=PATH"])
