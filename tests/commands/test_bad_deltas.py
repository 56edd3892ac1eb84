"""A delta that is damaged, of another kind, of another base, or contradicted by a flag; and merges that cannot be done."""

import json
import shutil

import numpy as np
import pytest

from petrun.tensors import array_entries, open_tensors, write_ckpt, write_safetensors
from tests.program import cut, edit
from tests.tiny import write_rows

LORA = "bert-lora/lora.ckpt"
EVAL = "eval --base bert --delta {} --data reviews.jsonl --out res.json"
START = "train --base bert --data reviews.jsonl --steps 1 --init-delta {} --out run"
MERGE = "merge --base {} --delta {} --out merged"
A = "layers.0.attn.q.mindpet_delta_lora_a"


def read(path):
    reader = open_tensors(path)
    return {name: np.array(reader.read(name)) for name in reader.names}, dict(reader.metadata)


def manifest(change):
    """Write bert's delta again with another manifest; `change(dict)` changes it, or gives its whole text."""

    def spoil(place):
        tensors, metadata = read(place / LORA)
        content = json.loads(metadata["petrun_manifest"])
        text = change(content)
        text = text if isinstance(text, str) else json.dumps(content)
        write_ckpt(place / LORA, array_entries(tensors), {"petrun_manifest": text})

    return spoil


def tensors(change):
    """Write bert's delta again with other tensors under its old manifest."""

    def spoil(place):
        held, metadata = read(place / LORA)
        change(held)
        write_ckpt(place / LORA, array_entries(held), metadata)

    return spoil


def another_bert(place):
    """The same architecture with other values."""
    shutil.copytree(place / "bert", place / "bert2")
    held, _ = read(place / "bert")
    scaled = {name: values * 1.5 for name, values in held.items()}
    write_safetensors(place / "bert2" / "model.safetensors", array_entries(scaled), {"format": "pt"})


def peft(change=None, **config):
    """A peft adapter for bert; `change(dict)` changes its tensors, `config` its settings."""

    def spoil(place):
        folder = place / "ad"
        folder.mkdir()
        settings = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["query"],
            "bias": "none",
            "task_type": "SEQ_CLS",
            "modules_to_save": ["classifier"],
        }
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
        held = {
            f"base_model.model.classifier.{leaf}": np.ones(shape, np.float32)
            for leaf, shape in (("weight", (2, 16)), ("bias", 2))
        }
        for layer in range(2):
            path = f"base_model.model.bert.encoder.layer.{layer}.attention.self.query.lora_"
            held[f"{path}A.weight"] = np.ones((2, 16), np.float32)
            held[f"{path}B.weight"] = np.ones((16, 2), np.float32)
        if change is not None:
            change(held)
        write_safetensors(folder / "adapter_model.safetensors", array_entries(held), {"format": "pt"})

    return spoil


def mindpet(change=None):
    """A MindPet checkpoint for bert or llama."""

    def spoil(place):
        held = {}
        for layer in range(2):
            held[f"layers.{layer}.attn.q.mindpet_delta_lora_a"] = np.ones((2, 16), np.float32)
            held[f"layers.{layer}.attn.q.mindpet_delta_lora_b"] = np.ones((16, 2), np.float32)
        if change is not None:
            change(held)
        write_ckpt(place / "mp.ckpt", array_entries(held))

    return spoil


def put(name, content):
    def spoil(place):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def several(*steps):
    def spoil(place):
        for step in steps:
            step(place)

    return spoil


def set_first(name, number):
    def change(held):
        held[name].flat[0] = number

    return change


ADAPTER = "ad/adapter_model.safetensors"
PEFT_A = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
# name: (what is done, the delta as given, words of the message)
FILES = {
    "missing": (None, "nix", ["nix: no such file or folder"]),
    "empty folder": (
        lambda p: (p / "nix").mkdir(),
        "nix",
        ["nix: holds no delta (<algo>.ckpt", "Give a run folder that finished"],
    ),
    "empty": (put(LORA, ""), LORA, [f"{LORA}: is empty", "Fetch or write the file again"]),
    "truncated": (
        lambda p: cut(p / LORA),
        LORA,
        [f"{LORA}: is not a whole MindSpore checkpoint", "fetch or write it again"],
    ),
    "cut by four bytes": (lambda p: cut(p / LORA, -4), LORA, [f"{LORA}: is not a whole MindSpore checkpoint"]),
    "garbage": (
        put(LORA, b"\xff\xd8garbage" * 9),
        LORA,
        [f"{LORA}: is neither safetensors nor a MindSpore checkpoint"],
    ),
    "a web page": (put(LORA, "<html>"), LORA, [f"{LORA}: is a web page", "Fetch the file itself again"]),
    "rows": (None, "reviews.jsonl", ["reviews.jsonl: is JSON text, not a model file"]),
    "a base folder": (None, "bert", ["bert/model.safetensors: is not a delta", "a whole model as --base"]),
    "a base file": (
        None,
        "bert/model.safetensors",
        ["bert/model.safetensors: is not a delta", "a whole model as --base"],
    ),
    "a run that did not end": (
        lambda p: (p / LORA).rename(p / "bert-lora/best.ckpt"),
        "bert-lora",
        ["bert-lora: holds no final delta, only best.ckpt", "To use that, give bert-lora/best.ckpt"],
    ),
    "a run that saved nothing": (lambda p: (p / LORA).unlink(), "bert-lora", ["bert-lora: holds no delta"]),
    "manifest no JSON": (
        manifest(lambda m: "{"),
        LORA,
        [f"{LORA}: its manifest is not valid JSON", "The file is damaged"],
    ),
    "manifest a list": (manifest(lambda m: "[]"), LORA, ["its manifest is not a JSON object"]),
    "manifest of the future": (
        manifest(lambda m: m.update(format=9)),
        LORA,
        ["written by a newer petrun", "pip install -U"],
    ),
    "manifest with an unknown key": (
        manifest(lambda m: m.update(sed=9)),
        LORA,
        ["sed: unknown key. Did you mean seed"],
    ),
    "manifest of a wrong type": (
        manifest(lambda m: m.update(seed="a")),
        LORA,
        ["seed: Input should be a valid integer, got 'a'"],
    ),
    "unknown algorithm": (
        manifest(lambda m: m.update(algo="loro")),
        LORA,
        ["names an unknown algorithm 'loro'. Did you mean lora"],
    ),
    "rank 0": (manifest(lambda m: m["config"].update(rank=0)), LORA, ["setting rank of lora does not read"]),
    "rank 4": (
        manifest(lambda m: m["config"].update(rank=4)),
        LORA,
        [f"{LORA}: does not fit this base", f"{A} is (2, 16), must be (4, 16)"],
    ),
    "unknown setting": (manifest(lambda m: m["config"].update(rnk=3)), LORA, ["setting rnk of lora does not read"]),
    "target of another net": (
        manifest(lambda m: m["config"].update(target=["nix"])),
        LORA,
        [f"{LORA}: does not fit this base: --target nix matches no linear layer"],
    ),
    "other targets": (
        manifest(lambda m: m["config"].update(target=["k"])),
        LORA,
        ["layers.0.attn.k.mindpet_delta_lora_a (2, 16) is missing", f"{A} (2, 16) fits nothing"],
    ),
    "another number of classes": (
        manifest(lambda m: m["task"].update(num_labels=5)),
        LORA,
        ["classifier.bias is (2), must be (5)"],
    ),
    "changed": (
        tensors(set_first(A, 7.0)),
        LORA,
        [f"{LORA}: its tensors are not those it was saved with", "use another copy"],
    ),
    "a tensor less": (
        tensors(lambda held: held.pop(A)),
        LORA,
        [f"{LORA}: lacks {A}, against its manifest", "use the original"],
    ),
    "a tensor more": (tensors(lambda held: held.update(x=held[A])), LORA, [f"{LORA}: holds x, against its manifest"]),
    "NaN": (
        tensors(set_first(A, np.nan)),
        LORA,
        [f"{LORA}: {A} holds NaN or infinity in 1 of 32 values", "use an earlier delta"],
    ),
    "peft config missing": (
        several(peft(), lambda p: (p / "ad/adapter_config.json").unlink()),
        "ad",
        [
            f"{ADAPTER}: is a peft adapter's weights without its adapter_config.json",
            "Put adapter_config.json beside it",
        ],
    ),
    "peft config truncated": (
        several(peft(), lambda p: cut(p / "ad/adapter_config.json")),
        "ad",
        ["ad/adapter_config.json: is not valid JSON", "Fetch the adapter again"],
    ),
    "peft config a list": (
        several(peft(), put("ad/adapter_config.json", "[]")),
        "ad",
        ["ad/adapter_config.json: is not a JSON object"],
    ),
    "peft config in Latin-1": (
        several(peft(), put("ad/adapter_config.json", b'{"\xe9": 1}')),
        "ad",
        ["ad/adapter_config.json: is not UTF-8 text (byte 2)"],
    ),
    "peft of another method": (
        peft(peft_type="BOFT"),
        "ad",
        ["ad/adapter_config.json: peft_type 'BOFT' is not supported", "LORA", "IA3", "PREFIX_TUNING"],
    ),
    "peft with DoRA": (peft(use_dora=True), "ad", ["attention.self.query: lacks lora_magnitude_vector"]),
    "peft of rank 0": (peft(r=0), "ad", ["ad/adapter_config.json: r: must be a positive whole number, not 0"]),
    "peft of another rank": (peft(r=4), "ad", ["attention.self.query: its rank is 2, the config says 4"]),
    "peft of other targets": (
        peft(target_modules=["key"]),
        "ad",
        ["self.query: has tensors, but target_modules does not name it"],
    ),
    "peft weights missing": (
        several(peft(), lambda p: (p / ADAPTER).unlink()),
        "ad",
        ["ad: lacks adapter_model.safetensors"],
    ),
    "peft weights pickled": (
        several(peft(), lambda p: (p / ADAPTER).rename(p / "ad/adapter_model.bin")),
        "ad",
        ["ad/adapter_model.bin: is a pickle", "safe_serialization=True"],
    ),
    "peft weights truncated": (several(peft(), lambda p: cut(p / ADAPTER)), "ad", [f"{ADAPTER}: is cut off"]),
    "peft infinity": (peft(set_first(PEFT_A, np.inf)), "ad", [f"{ADAPTER}: {A} holds NaN or infinity"]),
    "peft half a pair": (peft(lambda held: held.pop(PEFT_A)), "ad", ["layer.0.attention.self.query: has lora_B alone"]),
    "peft of another net": (
        peft(lambda held: held.update({"base_model.model.foo.lora_A.weight": np.ones((2, 2), np.float32)})),
        "ad",
        ["lora_A of foo: the base has no such layer"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_delta_file(place, refused, name):
    spoil, delta, words = FILES[name]
    if spoil is not None:
        spoil(place)
    refused(EVAL.format(delta), words)


@pytest.mark.parametrize("line", [EVAL, START, "inspect {}", "merge --base bert --delta {} --out merged"])
def test_every_command_tells_a_truncated_delta(place, refused, line):
    cut(place / LORA)
    refused(line.format(LORA), [f"{LORA}: is not a whole MindSpore checkpoint"])


# name: (what is done, the command, its exit code, words)
COMMANDS = {
    "other content, eval": (
        another_bert,
        EVAL.replace("--base bert", "--base bert2").format(LORA),
        1,
        ["other content (bert, digest", "Give the base"],
    ),
    "other content, merge": (
        another_bert,
        MERGE.format("bert2", LORA),
        1,
        [f"{LORA}: was trained on a base with other content"],
    ),
    "other content, predict": (
        another_bert,
        f"predict --base bert2 --delta {LORA} --data reviews.jsonl --out p.jsonl",
        1,
        [f"{LORA}: was trained on a base with other content"],
    ),
    "other content, train": (
        another_bert,
        START.replace("bert ", "bert2 ").format(LORA),
        1,
        ["was trained on a base with other content"],
    ),
    "architecture, eval": (
        None,
        "eval --base gpt2 --delta bert-lora --data orders.jsonl",
        1,
        [f"{LORA}: was trained on a bert base (bert); this one is gpt2", "Give the base it was trained on"],
    ),
    "architecture, predict": (
        None,
        "predict --base llama --delta gpt2-lora --data orders.jsonl --out p.jsonl",
        1,
        ["gpt2 base (gpt2); this one is llama"],
    ),
    "architecture, merge": (
        None,
        MERGE.format("gpt2", "bert-lora"),
        1,
        ["was trained on a bert base (bert); this one is gpt2"],
    ),
    "architecture, train": (
        None,
        "train --base gpt2 --data orders.jsonl --init-delta bert-lora --out run",
        1,
        ["this one is gpt2"],
    ),
    "architecture, peft": (
        peft(),
        MERGE.format("gpt2", "ad"),
        1,
        ["lora_A of bert.encoder.layer.0", "the base has no such layer"],
    ),
    "task of another delta": (
        None,
        EVAL.format(LORA) + " --task lm",
        2,
        ["--task lm contradicts the delta, which was trained for classify"],
    ),
    "a model of one's own": (
        manifest(lambda m: m.update(family="net.py:build")),
        EVAL.format(LORA),
        2,
        [f"{LORA} belongs to a model of your own, net.py:build", "--model net.py:build"],
    ),
    "alpha of a petrun delta": (
        None,
        EVAL.format(LORA) + " --alpha 3",
        2,
        ["--alpha is for MindPet checkpoints", "Leave --alpha out"],
    ),
    "alpha of a peft adapter": (
        peft(),
        MERGE.format("bert", "ad") + " --alpha 3",
        2,
        ["--alpha is for MindPet checkpoints"],
    ),
    "MindPet without alpha": (
        mindpet(),
        MERGE.format("llama", "mp.ckpt"),
        1,
        ["mp.ckpt: MindPet's checkpoints do not hold alpha", "--alpha"],
    ),
    "MindPet without alpha to start": (
        mindpet(),
        "train --base llama --data orders.jsonl --init-delta mp.ckpt --out run",
        1,
        ["mp.ckpt: MindPet's checkpoints do not hold alpha", "--alpha"],
    ),
    "MindPet with alpha 0": (
        mindpet(),
        MERGE.format("llama", "mp.ckpt") + " --alpha 0",
        1,
        ["alpha must be a number other than 0"],
    ),
    "MindPet with alpha nan": (
        mindpet(),
        MERGE.format("llama", "mp.ckpt") + " --alpha nan",
        1,
        ["alpha must be a number other than 0, not nan"],
    ),
    "MindPet on another base": (
        mindpet(),
        MERGE.format("gpt2", "mp.ckpt") + " --alpha 4",
        1,
        ["mp.ckpt: does not fit gpt2", f"{A} fits nothing"],
    ),
    "MindPet, half a pair": (
        mindpet(lambda held: held.pop(A)),
        MERGE.format("llama", "mp.ckpt") + " --alpha 4",
        1,
        ["mp.ckpt: layers.0.attn.q has only one of the two LoRA matrices"],
    ),
    "MindPet, another algorithm": (
        mindpet(lambda held: held.update({"layers.0.mindpet_delta_adapter_up": np.ones((2, 2), np.float32)})),
        MERGE.format("llama", "mp.ckpt") + " --alpha 4",
        1,
        ["holds the tensors of several MindPet algorithms: lora, adapter"],
    ),
    "MindPet, NaN": (
        mindpet(set_first(A, np.nan)),
        MERGE.format("llama", "mp.ckpt") + " --alpha 4",
        1,
        [f"mp.ckpt: {A} holds NaN or infinity"],
    ),
    # --init-delta
    "no such start": (None, START.format("nix"), 1, ["nix: no such file or folder"]),
    "a base as start": (None, START.format("bert"), 1, ["bert/model.safetensors: is not a delta"]),
    "another rank": (
        None,
        START.format("bert-lora") + " --rank 4",
        2,
        ["--rank 4 contradicts the delta's 2", "Leave these out"],
    ),
    "another alpha": (None, START.format("bert-lora") + " --alpha 3", 2, ["--alpha 3.0 contradicts the delta's 16.0"]),
    "other layers": (
        None,
        START.format("bert-lora") + " --target k",
        2,
        ["--target k names other layers than the delta's"],
    ),
    "fewer layers": (
        None,
        START.format("bert-lora") + " --exclude v",
        2,
        ["--exclude v names other layers than the delta's"],
    ),
    "another variant": (
        None,
        START.format("bert-lora") + " --set delta.variant=rslora",
        2,
        ["--set delta.variant rslora contradicts the delta's lora"],
    ),
    "another algorithm": (
        None,
        START.format("bert-lora") + " --algo full",
        2,
        ["--algo full contradicts --init-delta bert-lora", "Leave --algo out"],
    ),
    "three contradictions at once": (
        None,
        START.format("bert-lora") + " --rank 4 --alpha 2 --target k",
        2,
        ["--rank 4 contradicts", "--alpha 2.0 contradicts", "--target k names other layers"],
    ),
    "more classes than the start": (
        lambda p: write_rows(p / "reviews.jsonl", [{"text": "good", "label": i} for i in range(3)]),
        START.format("bert-lora"),
        1,
        ["reviews.jsonl, line 3: the label 2 is out of range: there are 2 classes", "no --init-delta"],
    ),
    # merge
    "no delta": (None, "merge --base bert --out merged", 2, ["--delta is missing", "Example: --delta runs/lora-1"]),
    "no out": (None, "merge --base bert --delta bert-lora", 2, ["--out is missing", "Example: --out ./merged"]),
    "out is a folder of the user's": (
        None,
        "merge --base bert --delta bert-lora --out gpt2",
        1,
        ["gpt2: exists and is not an empty folder"],
    ),
    "out is the base": (
        None,
        "merge --base bert --delta bert-lora --out bert",
        1,
        ["bert: exists and is not an empty folder"],
    ),
    "out is a file": (
        None,
        "merge --base bert --delta bert-lora --out reviews.jsonl",
        1,
        ["reviews.jsonl: exists and is not an empty folder"],
    ),
    "out is in a file": (
        None,
        "merge --base bert --delta bert-lora --out reviews.jsonl/merged",
        1,
        ["reviews.jsonl/merged: cannot be written", "A part of the path is a file"],
    ),
    "out exists as a checkpoint": (
        put("m.ckpt", "mine"),
        "merge --base bert --delta bert-lora --out m.ckpt",
        1,
        ["m.ckpt: exists", "Choose another --out"],
    ),
    "no room": (
        None,
        "merge --base bert --delta bert-lora --out /proc/x/merged",
        1,
        ["/proc/x/merged: needs ", "kB, its disk has 0 bytes free"],
    ),
    "unknown type": (
        None,
        MERGE.format("bert", LORA) + " --dtype float8",
        2,
        ["--dtype float8 is unknown. Did you mean float64"],
    ),
    "no size": (
        None,
        MERGE.format("bert", LORA) + " --max-shard-size lots",
        2,
        ["--max-shard-size lots is not a size", "Examples: 500MB, 5GB"],
    ),
    "beyond the type": (
        mindpet(lambda held: held.update({A: held[A] * 1e6})),
        MERGE.format("llama", "mp.ckpt") + " --alpha 4 --dtype float16",
        1,
        ["model.layers.0.self_attn.q_proj.weight: holds", "which float16 cannot", "Merge into float32 or bfloat16"],
    ),
    "a truncated base": (
        lambda p: cut(p / "bert/model.safetensors"),
        MERGE.format("bert", LORA),
        1,
        ["bert/model.safetensors: is cut off"],
    ),
    # inspect
    "inspect nothing": (
        None,
        "inspect nix",
        1,
        ["nix: no such file or folder", "Give a delta, a base or a run folder"],
    ),
    "inspect rows": (None, "inspect reviews.jsonl", 1, ["reviews.jsonl: is JSON text, not a model file"]),
    "inspect an empty folder": (lambda p: (p / "void").mkdir(), "inspect void", 1, ["void: holds no delta"]),
    "inspect a broken config": (
        put("bert/config.json", "{"),
        "inspect bert",
        1,
        ["bert/config.json, line 1, column 2: not JSON"],
    ),
    "inspect broken results": (
        put("bert-lora/results.json", "{"),
        "inspect bert-lora",
        1,
        ["bert-lora/results.json, line 1, column 2: not JSON"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_delta_against_the_rest(place, refused, name):
    spoil, line, code, words = COMMANDS[name]
    if spoil is not None:
        spoil(place)
    refused(line, words, code)


def test_a_flag_that_agrees_with_the_start_is_no_contradiction(place, petrun):
    done = petrun(START.format("bert-lora") + " --algo lora --rank 2 --dropout 0.1 --target query,value --dry-run")
    assert done.code == 0, done.err
    mindpet()(place)
    done = petrun("train --base llama --data orders.jsonl --init-delta mp.ckpt --alpha 4 --dry-run")
    assert done.code == 0 and "alpha 4.0" in done.out, done.err


def test_a_start_of_another_method_holds_its_own_default_layers(place, petrun, refused):
    """(IA)^3 scales keys, values and the feed-forward's output where nothing is said; LoRA's default layers are others."""
    assert petrun("train --algo ia3 --base bert --data reviews.jsonl --steps 1 --out ia3").code == 0
    done = petrun(START.format("ia3") + " --target k,v,down --dry-run")
    assert done.code == 0 and "delta    ia3, 6 layers" in done.out, done.err
    refused(START.format("ia3") + " --target query,value", ["--target query,value names other layers"], 2)
    refused(
        START.format("ia3") + " --rank 4", ["--rank: is no setting of ia3, which --init-delta ia3 is", "feedforward"], 2
    )


def test_a_tokenizer_that_has_changed_is_noted(place, petrun):
    edit(place / "bert" / "tokenizer_config.json", pad_token="[UNK]")
    done = petrun(EVAL.format("bert-lora"))
    assert (
        done.code == 0
        and "note: the tokenizer in bert is not the one that bert-lora/lora.ckpt was trained with" in done.out
    )
