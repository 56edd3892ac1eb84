"""Strict loading: what is found where, the digest, and every way in which a file may not fit."""

import json
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from petrun.errors import WeightsError
from petrun.models.factory import load_model
from petrun.tensors import write_safetensors
from tests.models import reference

CONFIGS = {
    "bert": reference.BERT,
    "gpt2": reference.GPT2,
    "qwen2": {**reference.LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
}


def values(model):
    return {p.name: p.asnumpy() for p in model.net.get_parameters()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def write_shards(folder, config, tensors, count):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    where = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = dict(sorted(tensors.items())[i::count])
        save_file(part, folder / file)
        where.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def write_ckpt(path, tensors, config):
    path.parent.mkdir(exist_ok=True)
    ms.save_checkpoint([{"name": n, "data": Tensor(a)} for n, a in tensors.items()], str(path))
    (path.parent / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_container_gives_one_model_and_one_digest(tmp_path, kind):
    config = CONFIGS[kind]
    tensors = reference.make(config)
    whole = load_model(reference.write(tmp_path / "whole", config, tensors))
    inside = values(whole)
    shards = write_shards(tmp_path / "shards", config, tensors, 3)
    file = tmp_path / "whole" / "model.safetensors"
    os.utime(file, (1, 1))
    hf_ckpt = write_ckpt(tmp_path / "hf" / "base.ckpt", tensors, config)
    # The net's own names: own layout, so that GPT-2's matrices are the other way round.
    house_ckpt = write_ckpt(tmp_path / "house" / "base.ckpt", inside, config)
    for base in (shards, file, hf_ckpt, house_ckpt, house_ckpt.parent):
        model = load_model(base)
        same(values(model), inside)
        assert model.base_digest == whole.base_digest, base
        assert model.folder == (base if base.is_dir() else base.parent)
    assert len(whole.base_digest) == 64


def test_digest_tells_bases_apart(tmp_path):
    tensors = reference.make(reference.GPT2)
    digests = {load_model(reference.write(tmp_path / "a", reference.GPT2, tensors)).base_digest}
    for name in ("transformer.wte.weight", "transformer.h.1.attn.c_attn.weight", "transformer.ln_f.bias"):
        changed = {**tensors, name: tensors[name].copy()}
        changed[name].flat[0] += 1e-3
        digests.add(load_model(reference.write(tmp_path / name, reference.GPT2, changed)).base_digest)
    half = {n: a.astype(np.float16) for n, a in tensors.items()}
    digests.add(load_model(reference.write(tmp_path / "half", reference.GPT2, half)).base_digest)
    assert len(digests) == 5


def test_digest_leaves_the_task_head_out(tmp_path):
    """A delta brings its own head: whether the base's is kept or replaced makes no other base of it."""
    base = reference.write(tmp_path / "a", reference.BERT, reference.make(reference.BERT))
    bare = reference.write(
        tmp_path / "b",
        reference.BERT,
        {n: a for n, a in reference.make(reference.BERT).items() if "classifier" not in n},
    )
    digests = {
        load_model(base).base_digest,
        load_model(base, num_labels=5, fresh_head=True, seed=9).base_digest,
        load_model(bare, num_labels=2).base_digest,
    }
    assert len(digests) == 1


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64"])
def test_other_float_types_become_float32(tmp_path, stored):
    tensors = reference.make(reference.GPT2)
    if stored == "bfloat16":
        tensors = {n: (a.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for n, a in tensors.items()}
    reference.write(tmp_path, reference.GPT2, tensors)
    plain = load_model(tmp_path)
    wide = {n: a.astype(np.float16) if stored == "float16" else a for n, a in tensors.items()}
    entries = [
        (n, a.shape, stored, (lambda a=a: a.astype(np.float64) if stored == "float64" else a)) for n, a in wide.items()
    ]
    write_safetensors(tmp_path / "model.safetensors", entries, {})
    model = load_model(tmp_path)
    assert {str(p.dtype) for p in model.net.get_parameters()} == {"Float32"}
    expected = {
        n: a.astype(np.float16).astype(np.float32) if stored == "float16" else a for n, a in values(plain).items()
    }
    same(values(model), expected)
    assert model.base_digest != plain.base_digest


def test_gpt2_matrices_are_turned(tmp_path):
    tensors = reference.make(reference.GPT2)
    got = values(load_model(reference.write(tmp_path, reference.GPT2, tensors)))
    np.testing.assert_array_equal(got["layers.0.attn.qkv.weight"], tensors["transformer.h.0.attn.c_attn.weight"].T)
    np.testing.assert_array_equal(got["layers.1.mlp.down.weight"], tensors["transformer.h.1.mlp.c_proj.weight"].T)


@pytest.mark.parametrize(
    ("kind", "prefix", "extra"),
    [
        ("bert", "bert.", {}),
        (
            "gpt2",
            "transformer.",
            {
                "h.0.attn.bias": np.ones((1, 1, 20, 20), np.float32),
                "h.1.attn.masked_bias": np.full((), -1e4, np.float32),
            },
        ),
        ("qwen2", "model.", {"layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}),
    ],
)
def test_names_without_the_task_models_prefix(tmp_path, kind, prefix, extra):
    tensors = reference.make(CONFIGS[kind])
    whole = load_model(reference.write(tmp_path / "a", CONFIGS[kind], tensors))
    short = {n.removeprefix(prefix): a for n, a in tensors.items()}
    bare = load_model(reference.write(tmp_path / "b", CONFIGS[kind], {**short, **extra}))
    same(values(bare), values(whole))
    assert bare.base_digest == whole.base_digest


def test_optimizer_state_in_a_ckpt_is_left_aside(tmp_path):
    tensors = reference.make(reference.GPT2)
    base = reference.write(tmp_path / "hf", reference.GPT2, tensors)
    inside = values(load_model(base))
    state = {f"{m}.{n}": a + 1 for m in ("moment1", "adam_v") for n, a in inside.items()}
    state |= {"learning_rate": np.float32(0.1).reshape(1), "global_step": np.ones(1, np.int32)}
    path = write_ckpt(tmp_path / "ckpt" / "run.ckpt", {**state, **inside}, reference.GPT2)
    same(values(load_model(path)), inside)
    # load_param_into_net would put the moment into the weight that the file lacks, and say that it was loaded.
    lacking = {name: array for name, array in inside.items() if not name.endswith(".0.attn.o.weight")}
    assert len(lacking) == len(inside) - 1
    path = write_ckpt(tmp_path / "lacking" / "run.ckpt", {**state, **lacking}, reference.GPT2)
    with pytest.raises(WeightsError, match=r"c_proj\.weight .* is missing"):
        load_model(path)
    save_file({**tensors, "moment1.x": np.ones(2, np.float32)}, base / "model.safetensors")
    with pytest.raises(WeightsError, match=r"moment1\.x"):
        load_model(base)


def test_tied_head_may_be_stored_again(tmp_path):
    config = CONFIGS["qwen2"]
    tensors = reference.make(config)
    alone = load_model(reference.write(tmp_path / "a", config, tensors))
    embedding = tensors["model.embed_tokens.weight"]
    again = load_model(reference.write(tmp_path / "b", config, {**tensors, "lm_head.weight": embedding}))
    only = {n: a for n, a in tensors.items() if "embed" not in n} | {"lm_head.weight": embedding}
    headed = load_model(reference.write(tmp_path / "c", config, only))
    assert alone.base_digest == again.base_digest == headed.base_digest
    other = reference.write(tmp_path / "d", config, {**tensors, "lm_head.weight": embedding + 1})
    with pytest.raises(WeightsError, match=r"model\.embed_tokens\.weight differs from lm_head\.weight"):
        load_model(other)


def drop(name):
    return lambda t: {n: a for n, a in t.items() if n != name}


def put(name, change):
    return lambda t: {**t, name: change(t.get(name))}


def poison(value):
    def change(a):
        a = a.copy()
        a.flat[3] = value
        return a

    return change


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(Q), f"{Q} (16, 16) is missing"),
        (drop("lm_head.weight"), "lm_head.weight (50, 16) is missing"),
        (put("score.weight", lambda a: np.ones((2, 16), np.float32)), "score.weight (2, 16) belongs to no parameter"),
        (
            put("model.layers.2.mlp.up_proj.weight", lambda a: np.ones((24, 16), np.float32)),
            "model.layers.2.mlp.up_proj.weight (24, 16) belongs to no parameter. Did you mean",
        ),
        (put(Q, lambda a: a[:8]), f"{Q} is (8, 16), must be (16, 16)"),
        (put(Q, lambda a: a.astype(np.int8)), f"{Q} is int8, must be one of float32, float16, bfloat16, float64"),
        (put(Q, poison(np.nan)), f"{Q} holds 1 NaN or Inf among 256 values"),
        (put("model.norm.weight", poison(-np.inf)), "model.norm.weight holds 1 NaN or Inf among 16 values"),
        (put("layers.0.self_attn.q_proj.weight", lambda a: np.ones((16, 16), np.float32)), "are the same parameter"),
        (
            put("model.layers.0.self_attn.q_proj.bias", lambda a: np.ones(16, np.float32)),
            "self_attn.q_proj.bias (16) belongs to no parameter",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    base = reference.write(tmp_path, reference.LLAMA, change(reference.make(reference.LLAMA)))
    with pytest.raises(WeightsError) as caught:
        load_model(base)
    assert message in caught.value.message
    assert caught.value.message.startswith(str(base))


def test_all_problems_at_once(tmp_path):
    tensors = reference.make(reference.LLAMA)
    del tensors[Q]
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:4]
    tensors["extra"] = np.ones(1, np.float32)
    with pytest.raises(WeightsError) as caught:
        load_model(reference.write(tmp_path, reference.LLAMA, tensors))
    for name in (Q, "model.norm.weight is (4), must be (16)", "extra (1) belongs to no parameter"):
        assert name in caught.value.message
    spoiled = {n: poison(np.nan)(a) if a.ndim == 2 else a for n, a in reference.make(reference.LLAMA).items()}
    with pytest.raises(WeightsError) as caught:
        load_model(reference.write(tmp_path, reference.LLAMA, spoiled))
    assert caught.value.message.count("NaN") == 16


def test_a_long_list_is_cut(tmp_path):
    made = reference.make(reference.LLAMA)
    tensors = {n if n == Q else n + ".x": a for n, a in made.items()}
    with pytest.raises(WeightsError) as caught:
        load_model(reference.write(tmp_path, reference.LLAMA, tensors))
    assert len(caught.value.message.splitlines()) == 22
    assert "... and 20 more" in caught.value.message


def test_nothing_loaded(tmp_path):
    tensors = {n + ".x": a for n, a in reference.make(reference.LLAMA).items()}
    with pytest.raises(
        WeightsError, match=r"holds none of the model's 21 tensors; it holds lm_head\.weight\.x, "
    ) as caught:
        load_model(reference.write(tmp_path, reference.LLAMA, tensors))
    assert "a delta is given as --delta" in caught.value.hint


def test_values_beyond_float16(tmp_path):
    tensors = reference.make(reference.LLAMA)
    tensors[Q] = tensors[Q] * 1e6
    base = reference.write(tmp_path, reference.LLAMA, tensors)
    load_model(base)
    with pytest.raises(WeightsError, match=r"q_proj.weight holds .*, beyond the range of float16"):
        load_model(base, compute_dtype="float16")
