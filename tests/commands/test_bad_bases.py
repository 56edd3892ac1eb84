"""A base that is damaged, incomplete, of another kind, or does not fit what is asked of it."""

import json
import shutil

import numpy as np
import pytest

from petrun.tensors import array_entries, open_tensors, write_ckpt, write_safetensors
from tests.program import cut, edit
from tests.tiny import write_base, write_rows

BERT = "train --base bert --data reviews.jsonl --out run --steps 1"
GPT2 = "train --base gpt2 --data orders.jsonl --out run --steps 1"
LLAMA = "train --base llama --data orders.jsonl --out run --steps 1"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
FETCH = "Fetch the file again."
TOGETHER = "Check that the weights and config.json (or the model's code) belong together"


def put(name, content):
    """Replace a file."""
    return lambda place: (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def config(family, **changes):
    return lambda place: edit(place / family / "config.json", **changes)


def tensors(change):
    """Write bert's tensors again after `change(dict)`."""

    def spoil(place):
        reader = open_tensors(place / "bert")
        held = {name: np.array(reader.read(name)) for name in reader.names}
        change(held)
        write_safetensors(place / "bert" / "model.safetensors", array_entries(held), {"format": "pt"})

    return spoil


def value(number):
    def change(held):
        held[QUERY][2, 3] = number

    return tensors(change)


def head(classes, whole=True):
    """Give bert a classification head of its own."""

    def spoil(place):
        config("bert", architectures=["BertForSequenceClassification"], num_labels=classes)(place)
        parts = {
            "classifier.weight": np.zeros((classes, 16), np.float32),
            "classifier.bias": np.zeros(classes, np.float32),
        }
        tensors(lambda held: held.update(parts if whole else {"classifier.weight": parts["classifier.weight"]}))(place)

    return spoil


def shards(keep=2, index=None):
    """ShardSpec gpt2's weights into two shards."""

    def spoil(place):
        folder = place / "gpt2"
        reader = open_tensors(folder)
        listed = {}
        for number, names in enumerate((reader.names[:9], reader.names[9:]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            listed.update(dict.fromkeys(names, file))
            if number <= keep:
                write_safetensors(folder / file, array_entries({n: reader.read(n) for n in names}), {"format": "pt"})
        (folder / "model.safetensors").unlink()
        text = json.dumps({"weight_map": listed}) if index is None else index
        (folder / "model.safetensors.index.json").write_text(text)

    return spoil


def checkpoint(size=None, folder="bert"):
    """bert as a MindSpore checkpoint, cut to `size` bytes, in bert's folder or alone in another."""

    def spoil(place):
        reader = open_tensors(place / "bert")
        (place / folder).mkdir(exist_ok=True)
        path = place / folder / "bert.ckpt"
        write_ckpt(path, array_entries({name: reader.read(name) for name in reader.names}))
        if size is not None:
            cut(path, size)

    return spoil


def chat(template, name="tokenizer_config.json"):
    def spoil(place):
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
        write_rows(place / "orders.jsonl", [{"messages": turns}])
        if name.endswith(".jinja"):
            (place / "llama" / name).write_bytes(template)
        else:
            edit(place / "llama" / name, chat_template=template)

    return spoil


def several(*steps):
    def spoil(place):
        for step in steps:
            step(place)

    return spoil


def without(name):
    return lambda place: (place / name).unlink()


CASES = {
    # config.json
    "no such base": (
        None,
        BERT.replace("bert", "brt"),
        ["brt: no such file or folder", "--base takes a Hugging Face folder"],
    ),
    "empty folder": (
        lambda p: (p / "void").mkdir(),
        BERT.replace("bert", "void"),
        ["void/config.json: no such file", "model.config=PATH"],
    ),
    "config missing": (
        without("bert/config.json"),
        BERT,
        ["bert/config.json: no such file", "Put the base's config.json there"],
    ),
    "config truncated": (
        lambda p: cut(p / "bert/config.json"),
        BERT,
        ["bert/config.json, line 1, column ", "not JSON", FETCH],
    ),
    "config empty": (put("bert/config.json", ""), BERT, ["bert/config.json: is empty", FETCH]),
    "config a list": (
        put("bert/config.json", "[]"),
        BERT,
        ["bert/config.json: must hold a JSON object, holds list", FETCH],
    ),
    "config in UTF-16": (
        put("bert/config.json", '{"a": 1}'.encode("utf-16")),
        BERT,
        ["bert/config.json: not UTF-8 text (byte 0)"],
    ),
    "config nested": (
        put("bert/config.json", '{"a":' + "[" * 100_000),
        BERT,
        ["bert/config.json: is nested too deeply"],
    ),
    "config a folder": (
        several(without("bert/config.json"), lambda p: (p / "bert/config.json").mkdir()),
        BERT,
        ["bert/config.json: no such file"],
    ),
    "no model type": (
        config("bert", model_type=None),
        BERT,
        ["bert/config.json: has no model_type", "--model names it: bert, bloom"],
    ),
    "unknown model type": (
        config("bert", model_type="bart"),
        BERT,
        ["model_type = 'bart' is not supported", "--model module:function"],
    ),
    "unknown activation": (
        config("bert", hidden_act="unknown"),
        BERT,
        ['bert/config.json: hidden_act = "unknown" is not supported for bert; supported: gelu'],
    ),
    "unknown rope scaling": (
        config("llama", rope_scaling={"type": "spiral", "factor": 2}),
        LLAMA,
        ['llama/config.json: rope_scaling.rope_type = "spiral" is not supported', "llama3, longrope, yarn"],
    ),
    "quantised": (
        config("llama", quantization_config={"bits": 4}),
        LLAMA,
        [
            "llama/config.json: quantization_config.quant_method = None is not supported; supported: bitsandbytes",
            "--base-bits 8 or 4 quantises it",
        ],
    ),
    "size as text": (config("bert", hidden_size="16"), BERT, ['hidden_size = "16": must be an integer of at least 1']),
    "size missing": (config("bert", hidden_size=None), BERT, ["bert/config.json: hidden_size is missing"]),
    "heads do not divide": (
        config("bert", num_attention_heads=3),
        BERT,
        ["hidden_size = 16: must be a multiple of num_attention_heads = 3"],
    ),
    "no layers": (
        config("bert", num_hidden_layers=-1),
        BERT,
        ["num_hidden_layers = -1: must be an integer of at least 1"],
    ),
    "another config": (None, f"{BERT} --set model.config=nix.json", ["nix.json: no such file", "model.config=PATH"]),
    "damaged generation config": (
        put("gpt2/generation_config.json", "{"),
        GPT2,
        ["gpt2/generation_config.json, line 1", "not JSON"],
    ),
    # weights
    "weights missing": (
        without("bert/model.safetensors"),
        BERT,
        ["bert: holds neither model.safetensors nor model.safetensors.index.json"],
    ),
    "weights truncated": (
        lambda p: cut(p / "bert/model.safetensors"),
        BERT,
        ["bert/model.safetensors: is cut off: tensor", "fetch or write it again"],
    ),
    "weights cut in the header": (
        lambda p: cut(p / "bert/model.safetensors", 5),
        BERT,
        ["is not a safetensors file, or is cut off"],
    ),
    "weights empty": (
        put("bert/model.safetensors", ""),
        BERT,
        ["bert/model.safetensors: is empty", "Fetch or write the file again"],
    ),
    "weights a web page": (
        put("bert/model.safetensors", "<!DOCTYPE html>"),
        BERT,
        ["is a web page", "Fetch the file itself again"],
    ),
    "weights a pointer": (
        put("bert/model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        BERT,
        ["Git LFS pointer", "git lfs pull"],
    ),
    "weights a folder": (
        several(without("bert/model.safetensors"), lambda p: (p / "bert/model.safetensors").mkdir()),
        BERT,
        ["bert/model.safetensors: cannot be read: Is a directory"],
    ),
    "weights pickled": (
        several(without("bert/model.safetensors"), put("bert/pytorch_model.bin", b"PK\x03\x04")),
        BERT,
        [
            "bert/pytorch_model.bin: cannot be read as a file of torch.save",
            "save_pretrained(sys.argv[1] + '/converted')",
        ],
    ),
    "NaN": (value(np.nan), BERT, [f"bert: {QUERY} holds 1 NaN or Inf among 256 values", "fetch it again"]),
    "infinity": (value(np.inf), BERT, [f"bert: {QUERY} holds 1 NaN or Inf"]),
    "beyond the type": (
        value(1e9),
        f"{BERT} --set model.dtype=float16",
        [f"{QUERY} holds 1e+09, beyond the range of float16"],
    ),
    "tensor missing": (tensors(lambda held: held.pop(QUERY)), BERT, [f"{QUERY} (16, 16) is missing", TOGETHER]),
    "tensor unknown": (
        tensors(lambda held: held.update({QUERY.replace("query", "qeury"): held[QUERY]})),
        BERT,
        [f"self.qeury.weight (16, 16) belongs to no parameter. Did you mean {QUERY}?"],
    ),
    "integers": (
        tensors(lambda held: held.update({QUERY: held[QUERY].astype(np.int64)})),
        BERT,
        [f"{QUERY} is int64, must be one of float32", "quantised weights are not supported"],
    ),
    "wrong shape": (
        tensors(lambda held: held.update({QUERY: held[QUERY][:8]})),
        BERT,
        [f"{QUERY} is (8, 16), must be (16, 16)"],
    ),
    "more layers than weights": (
        config("bert", num_hidden_layers=3),
        BERT,
        ["bert.encoder.layer.2.attention.self.key.bias (16) is missing"],
    ),
    "wrong vocabulary": (
        config("gpt2", vocab_size=300),
        GPT2,
        ["transformer.wte.weight is (258, 16), must be (300, 16)"],
    ),
    "shard missing": (
        shards(keep=1),
        GPT2,
        ["gpt2: lacks 1 of 2 shards: model-00002-of-00002.safetensors", "fetch them again"],
    ),
    "index truncated": (
        shards(index='{"weight_map": {"a"'),
        GPT2,
        ["gpt2/model.safetensors.index.json: is not valid JSON"],
    ),
    "index empty": (shards(index="{}"), GPT2, ["gpt2/model.safetensors.index.json: has no weight_map"]),
    "index of other shards": (
        shards(index='{"weight_map": {"x": "model-00001-of-00002.safetensors"}}'),
        GPT2,
        ["shard model-00002-of-00002.safetensors is not named in model.safetensors.index.json"],
    ),
    "index that leads outside": (
        shards(index='{"weight_map": {"x": "../bert/model.safetensors"}}'),
        GPT2,
        ["which is not a file name"],
    ),
    "checkpoint truncated": (
        checkpoint(9000),
        BERT.replace("bert", "bert/bert.ckpt"),
        ["bert/bert.ckpt: is not a whole MindSpore checkpoint"],
    ),
    "checkpoint empty": (checkpoint(0), BERT.replace("bert", "bert/bert.ckpt"), ["bert/bert.ckpt: is empty"]),
    "checkpoint alone": (
        checkpoint(folder="alone"),
        BERT.replace("bert", "alone/bert.ckpt"),
        ["alone/config.json: no such file"],
    ),
    "half a head": (head(2, whole=False), BERT, ["classifier.bias (2) is missing"]),
    "a head of one number for classes": (
        head(1),
        f"{BERT} --set data.regression=false",
        ["the model predicts one number, no class", "model.fresh_head=true"],
    ),
    # tokenizer
    "tokenizer missing": (
        without("bert/tokenizer.json"),
        BERT,
        ["reviews.jsonl: the rows are text, but the base has no tokenizer", "Put tokenizer.json"],
    ),
    "tokenizer truncated": (
        lambda p: cut(p / "bert/tokenizer.json"),
        BERT,
        ["bert/tokenizer.json: the tokenizer file is damaged", "Download it again"],
    ),
    "tokenizer empty": (put("bert/tokenizer.json", ""), BERT, ["bert/tokenizer.json: the tokenizer file is damaged"]),
    "tokenizer of another kind": (
        put("bert/tokenizer.json", '{"a": 1}'),
        BERT,
        ["bert/tokenizer.json: the tokenizer file is damaged"],
    ),
    "tokenizer in Latin-1": (
        put("bert/tokenizer.json", b'{"\xe9": 1}'),
        BERT,
        ["bert/tokenizer.json: is not UTF-8 text (byte 2)"],
    ),
    "tokenizer of another base": (
        lambda p: shutil.copy(p / "gpt2/tokenizer.json", p / "bert/tokenizer.json"),
        BERT,
        ["bert: the tokenizer gives the id", "the model's vocabulary has 14 entries", "do not belong to this base"],
    ),
    "tokenizer config truncated": (
        lambda p: cut(p / "bert/tokenizer_config.json", 9),
        BERT,
        ["bert/tokenizer_config.json, line 1: not JSON"],
    ),
    "tokenizer config a list": (
        put("bert/tokenizer_config.json", "[1]"),
        BERT,
        ["bert/tokenizer_config.json: expected a JSON object"],
    ),
    # chat template
    "chat template broken": (
        chat("{% for m in messages %}{{ m['content'] }"),
        LLAMA,
        ["llama/tokenizer_config.json, chat_template, line 1: unexpected '}'"],
    ),
    "chat template refuses": (
        chat("{{ raise_exception('roles must alternate') }}{{ messages }}"),
        LLAMA,
        ["orders.jsonl, line 1: the template chat fails: roles must alternate"],
    ),
    "chat template reads nothing": (
        chat("hello"),
        LLAMA,
        ["the template chat does not read `messages`", "--template chatml"],
    ),
    "chat template a number": (
        chat(5),
        LLAMA,
        ["llama/tokenizer_config.json: chat_template is neither text nor a list"],
    ),
    "chat template in Latin-1": (
        chat(b"\xe9{{ messages }}", "chat_template.jinja"),
        LLAMA,
        ["llama/chat_template.jinja: is not UTF-8 text"],
    ),
    "no chat template": (
        chat(None),
        LLAMA,
        ["the rows hold messages, but the tokenizer has no chat template", "--template chatml"],
    ),
    # another thing than a base
    "a run folder": (
        None,
        BERT.replace("bert", "bert-lora"),
        ["bert-lora: is the delta of a run, not a base", "Give it as --delta"],
    ),
    "a delta file": (
        None,
        BERT.replace("bert", "bert-lora/lora.ckpt"),
        ["bert-lora/lora.ckpt: is the delta of a run, not a base"],
    ),
    "a delta file beside a config": (
        lambda p: shutil.copy(p / "bert-lora/lora.ckpt", p / "bert/lora.ckpt"),
        BERT.replace("bert", "bert/lora.ckpt"),
        ["bert/lora.ckpt: holds the tensors of a delta, not of a base", "Give it as --delta"],
    ),
    "a peft adapter": (
        lambda p: [(p / "ad").mkdir(), (p / "ad/adapter_config.json").write_text("{}")],
        BERT.replace("bert", "ad"),
        ["ad: is a peft adapter, not a base", "Give it as --delta"],
    ),
    "its config.json": (
        None,
        BERT.replace("bert", "bert/config.json"),
        ["bert/config.json: is JSON text, not a model file", "or its folder"],
    ),
    "a base for eval": (
        None,
        "eval --base bert-lora --delta bert-lora --data reviews.jsonl",
        ["bert-lora: is the delta of a run, not a base"],
    ),
    # what it cannot do
    "unknown family": (None, f"{BERT} --model brt", ["--model brt: no such family. Did you mean bert"]),
    "another family": (
        None,
        f"{BERT} --model gpt2",
        ["--model gpt2 contradicts model_type = 'bert' in bert/config.json", "Leave --model out"],
    ),
    "classify with chatglm": (
        None,
        GPT2.replace("orders", "reviews").replace("gpt2", "chatglm"),
        ["stand for the task classify, which this model family cannot do"],
    ),
    "instruct with bert": (
        None,
        BERT.replace("reviews", "orders"),
        ["stand for the task instruct, which this model family cannot do"],
    ),
    "bfloat16 on the CPU": (
        None,
        f"{BERT} --set model.dtype=bfloat16",
        ["no bfloat16 matrix product for the CPU", "leave model.dtype out"],
    ),
    "no head to predict with": (
        None,
        "predict --base bert --data reviews.jsonl --out p.jsonl",
        ["bert: the base has no classification head"],
    ),
    "damaged base to merge": (
        value(np.nan),
        "merge --base bert --delta bert-lora --out merged",
        ["was trained on a base with other content"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_base(place, refused, name):
    spoil, line, words = CASES[name]
    if spoil is not None:
        spoil(place)
    refused(line, words)


def test_task_that_the_family_cannot_do(refused):
    refused(
        f"{GPT2.replace('gpt2', 'chatglm')} --task classify",
        ["--task classify: this model family cannot do it; it does lm, instruct"],
        code=2,
    )


def test_a_wider_base_of_the_same_kind(place, refused):
    write_base(place / "wide", "bert", hidden_size=32)
    for line in (
        "eval --base wide --delta bert-lora --data reviews.jsonl",
        "predict --base wide --delta bert-lora --data reviews.jsonl --out p.jsonl",
        "merge --base wide --delta bert-lora --out merged",
        "train --base wide --init-delta bert-lora --data reviews.jsonl --out run",
    ):
        refused(line, ["bert-lora/lora.ckpt: was trained on a base with other content (bert, digest", "Give the base"])
