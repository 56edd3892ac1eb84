"""What every family's net must do, held against transformers' numbers: see transformers_cases.py."""

import json
from fnmatch import fnmatchcase

import numpy as np
from mindspore import Tensor

from petrun.evaluate.generate import TextGenerator
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.models.factory import load_model
from petrun.models.families import family_of_type
from tests.models.reference import write
from tests.models.transformers_cases import (
    CASES,
    CLASSIFIERS,
    GLM,
    LENGTHS,
    NEW,
    SCORED,
    STORED,
    TAGGED,
    batch,
    last_two,
    values,
)

CHATGLM = {
    "model_type": "chatglm", "padded_vocab_size": GLM["vocab_size"], "hidden_size": 16, "num_layers": 2, "num_attention_heads": 4,
    "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 8, "ffn_hidden_size": 24, "seq_length": 64,
    "layernorm_epsilon": 1.5625e-07, "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True, "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False, "original_rope": True, "apply_query_key_layer_scaling": True,
    "pad_token_id": 0, "eos_token_id": [1, 2],
}  # fmt: skip
"""The model of the case "glm" as ChatGLM2's folders say it: its numbers are those of that case."""
SAME_NUMBERS = {"chatglm": "glm"}


def stored(name):
    return json.loads(STORED.read_text())["cases"][SAME_NUMBERS.get(name, name)]


def tensors(config, classes=3):
    """Every tensor of a model, by Hugging Face name; `classes` 0: without the head of a classifier."""
    family = family_of_type(config["model_type"]).for_task(None, config)
    parsed = family.parse(config)
    heads = (classes or 2) if family.has_classes else None
    shapes = {p.name: tuple(p.shape) for p in family.build(parsed, num_labels=heads).get_parameters()}
    found = {}
    for ours, name in family.names(parsed).items():
        if not classes and family.has_classes and name.optional:
            continue
        shape = tuple(reversed(shapes[ours])) if name.transpose else shapes[ours]
        for part in name.parts:
            found[part] = values(part, shape[1:])
        if not name.parts:
            found[name.name] = values(name.name, shape)
    return found


def as_chatglm(glm):
    """The tensors of a glm in the names and fused layouts of ChatGLM2 and 3: queries, keys and values one below the other."""
    names = {
        "model.embed_tokens": "transformer.embedding.word_embeddings", "model.norm": "transformer.encoder.final_layernorm",
        "lm_head": "transformer.output_layer", "model.layers": "transformer.encoder.layers", "self_attn.o_proj": "self_attention.dense",
        "mlp.gate_up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h",
    }  # fmt: skip
    found, parts = {}, ("q_proj", "k_proj", "v_proj")
    for name, tensor in glm.items():
        own = name
        for theirs, ours in names.items():
            own = own.replace(theirs, ours)
        if "q_proj" in name:
            rows = [glm[name.replace("q_proj", part)] for part in parts]
            found[own.replace("self_attn.q_proj", "self_attention.query_key_value")] = np.concatenate(rows)
        elif not any(part in name for part in parts):
            found[own] = tensor
    return found


CONFIGS = {**CASES, **CLASSIFIERS, **SCORED, **TAGGED, "chatglm": CHATGLM}


def load(folder, name, **settings):
    """The model of a case, from a folder as transformers would save it."""
    stored_tensors = as_chatglm(tensors(GLM)) if name == "chatglm" else tensors(CONFIGS[name])
    return load_model(write(folder, CONFIGS[name], stored_tensors), **settings)


def forward(net, arrays):
    return net(*(Tensor(np.asarray(a, np.int32)) for a in arrays)).asnumpy()


def check_logits(model, name):
    """With padding on the right and on the left."""
    wanted = np.array(stored(name)["logits"])
    for left in (False, True):
        got = forward(model.net, batch(left))
        assert got.dtype == np.float32
        np.testing.assert_allclose(last_two(got, left), wanted, atol=1e-4)


def check_classes(model, name):
    """With padding on the right and on the left."""
    pad = CONFIGS[name]["pad_token_id"]
    for side in ("right", "left"):
        ids, segments, positions = batch(side == "left")
        got = forward(model.net, (np.where(segments == 1, ids, pad), segments, positions))
        np.testing.assert_allclose(got, stored(name)[side], atol=1e-4)


def check_greedy(model, name):
    """transformers' text, and so that of cached generation."""
    ids, segments, _ = batch(left=False)
    prompts = [ids[row, : segments[row].sum()] for row in range(len(LENGTHS))]
    answers = TextGenerator(model.net, eos_ids=(), batch_size=2)(prompts, NEW)
    assert [list(answer.tokens) for answer in answers] == stored(name)["greedy"]


def check_cache(model):
    """Logits with a cache equal those of the whole row: prompts of all but each row's last two tokens, then a token at a time."""
    ids, segments, positions = batch(left=False)
    whole = forward(model.net, (ids, segments, positions))
    rows, lengths = np.arange(len(ids), dtype=np.int32), segments.sum(1).astype(np.int32)
    columns = np.maximum(lengths - 2, 1)
    caches = model.net.open_caches(len(ids), ids.shape[1])
    logits, *new = PrefillStep(model.net)(Tensor(ids), Tensor(columns), Tensor(rows), *caches)
    step = DecodeStep(model.net)
    while True:
        np.testing.assert_allclose(logits.asnumpy(), whole[rows, columns - 1], atol=2e-5)
        if (columns == lengths).all():
            return
        caches = caches if model.net.writes_in_place() else new
        # A row that has ended repeats its last token.
        columns = np.minimum(columns + 1, lengths)
        tokens = Tensor(np.ascontiguousarray(ids[rows, columns - 1][:, None]))
        logits, *new = step(tokens, Tensor(columns - 1), *caches)


def check_packing(model):
    """Rows that are packed into one do not see each other."""
    ids, _, _ = batch(left=False)
    packed = forward(model.net, (ids[:1], [[1] * 4 + [2] * 5], [[0, 1, 2, 3, 0, 1, 2, 3, 4]]))
    alone = forward(model.net, (ids[:1, 4:], [[1] * 5], [[0, 1, 2, 3, 4]]))
    np.testing.assert_allclose(packed[:, 4:], alone, atol=2e-5)


def check_sites(name):
    """Paths and names belong to cells and parameters that are there."""
    family = family_of_type(CONFIGS[name]["model_type"]).for_task(None, CONFIGS[name])
    config = family.parse(CONFIGS[name])
    sites, net = family.sites(config), family.build(config, num_labels=3 if family.has_classes else None)
    paths = {path for path, _ in net.cells_and_names()}
    for pattern in (*sites.linears.values(), sites.cores, *sites.sublayers):
        assert sum(fnmatchcase(p, pattern) for p in paths) == config.layers, pattern
    assert {sites.embedding, sites.head, *sites.tables} <= paths
    assert set(sites.hf_paths) - {"head"} <= paths
    assert set(family.names(config)) == {p.name for p in net.get_parameters()}
    return sites
