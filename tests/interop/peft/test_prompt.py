"""peft's adapters of virtual tokens: the layout of a prefix, heads, refusals, and the way out."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.interop.convert import algo_of, from_peft, to_net_names, trained_classes, write_peft
from tests.checkpoint.toy_family import HIDDEN, PREFIXES

P, LAYERS, HEADS, WIDTH = 4, 2, 3, 2
SITES = Sites(
    embedding="embed",
    cores="layers.*.attn.core",
    layers=LAYERS,
    heads=HEADS,
    kv_heads=HEADS,
    head_dim=WIDTH,
    hidden=HIDDEN,
)
PREFIX = np.random.default_rng(1).standard_normal((P, 2 * LAYERS * HEADS * WIDTH)).astype(np.float32)
PROMPT = np.random.default_rng(2).standard_normal((P, HIDDEN)).astype(np.float32)
HEAD = {
    "base_model.classifier.weight": np.ones((3, 6), np.float32),
    "base_model.classifier.bias": np.arange(3, dtype=np.float32),
}
PREFIX_TABLES = [f"layers.{i}.attn.core.encoder.mindpet_delta_ptuning2.source.table" for i in range(LAYERS)]
PROMPT_TABLE = "embed.encoder.mindpet_delta_prompt.table"
KINDS = {
    "PREFIX_TUNING": (PREFIX, "ptuning2", {"prefix_projection": True, "encoder_hidden_size": 24}),
    "PROMPT_TUNING": (PROMPT, "prompt", {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Say whether"}),
    "P_TUNING": (PROMPT, "prompt", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 2}),
}


@pytest.fixture
def write_tokens(write_adapter):
    def write(kind, tensors=None, folder="adapter", **config):
        table, _, own = KINDS[kind]
        path = write_adapter({"prompt_embeddings": table} if tensors is None else tensors, folder)
        settings = {
            "peft_type": kind,
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": P,
            "num_transformer_submodules": 1,
            "num_layers": LAYERS,
            "num_attention_heads": HEADS,
            "token_dim": HIDDEN,
            "peft_version": "0.21.2",
            **own,
            **config,
        }
        (path / "adapter_config.json").write_text(json.dumps(settings))
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_tables_and_heads(write_tokens, names, kind):
    table, algo, _ = KINDS[kind]
    folder = write_tokens(kind, {"prompt_embeddings": table, **HEAD}, modules_to_save=["classifier", "score"] * 2)
    raw = read_delta(folder)
    assert algo_of(raw) == algo and trained_classes(raw) == 3
    delta = to_net_names(raw, names, PREFIXES, sites=SITES)
    assert delta.algo == algo and len(delta.digest) == 64
    assert delta.config == {"tokens": P, "projection": False} if algo == "ptuning2" else {"tokens": P}
    tables = PREFIX_TABLES if algo == "ptuning2" else [PROMPT_TABLE]
    assert set(delta.tensors) == {*tables, "classifier.weight", "classifier.bias"}
    np.testing.assert_array_equal(delta.tensors["classifier.bias"], HEAD["base_model.classifier.bias"])
    if algo == "prompt":
        np.testing.assert_array_equal(delta.tensors[PROMPT_TABLE], table)


def test_the_layout_of_a_prefix(write_tokens, names):
    """peft views the table as (P, 2 * layers, heads, width): keys of layer l at 2 l, values at 2 l + 1."""
    delta = from_peft(read_delta(write_tokens("PREFIX_TUNING")), names, sites=SITES)
    theirs = PREFIX.reshape(P, 2 * LAYERS, HEADS, WIDTH)
    for layer, name in enumerate(PREFIX_TABLES):
        keys, values = delta.tensors[name].reshape(P, 2, HEADS, WIDTH).transpose(1, 0, 2, 3)
        np.testing.assert_array_equal(keys, theirs[:, 2 * layer])
        np.testing.assert_array_equal(values, theirs[:, 2 * layer + 1])
        assert delta.shapes[name] == (P, 2 * HEADS * WIDTH)


REFUSED = {
    "two halves": (
        {"num_transformer_submodules": 2},
        None,
        "num_transformer_submodules: 2 is not supported for this base",
    ),
    "task": ({"task_type": "QUESTION_ANS"}, None, "task_type: 'QUESTION_ANS' is not supported"),
    "other field": ({"gated": True}, None, "gated: True is not supported"),
    "tokens": ({"num_virtual_tokens": None}, None, "num_virtual_tokens: must be a positive whole number"),
    "rows": (
        {"num_virtual_tokens": 9},
        None,
        r"prompt_embeddings is \[4, \d+\], must be \[9, \d+\]: num_virtual_tokens is 9",
    ),
    "missing": ({}, HEAD, "prompt_embeddings is missing"),
    "encoder": (
        {},
        {"prompt_encoder.default.embedding.weight": PROMPT},
        "is neither prompt_embeddings nor below base_model",
    ),
    "unknown head": ({}, {"base_model.head.weight": PROMPT}, r"head\.weight: the base has no such layer"),
    "lacking head": ({"modules_to_save": ["classifier"]}, None, r"classifier\.weight: modules_to_save names it, but"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused(write_tokens, names, kind, case):
    config, tensors, message = REFUSED[case]
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(write_tokens(kind, tensors, **config)), names, sites=SITES)


@pytest.mark.parametrize("kind", KINDS)
def test_another_base_and_one_that_says_nothing(write_tokens, names, kind):
    raw = read_delta(write_tokens(kind))
    other = Sites(
        embedding="embed", cores="layers.*.attn.core", layers=3, heads=3, kv_heads=1, head_dim=WIDTH, hidden=HIDDEN + 1
    )
    told = {"PREFIX_TUNING": "this base has 3 layers of 1 key/value heads of width 2"}
    with pytest.raises(DeltaError, match=told.get(kind, "this base's embeddings are 7 wide")):
        from_peft(raw, names, sites=other)
    for nothing in (None, Sites()):
        with pytest.raises(DeltaError, match="the base does not say where") as caught:
            from_peft(raw, names, sites=nothing)
        assert "return (net, Sites(" in caught.value.hint
    infinite = write_tokens(kind, {"prompt_embeddings": KINDS[kind][0] * np.float32(np.inf)}, "infinite")
    with pytest.raises(DeltaError, match="holds NaN or infinity"):
        from_peft(read_delta(infinite), names, sites=SITES)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_out_and_in_again(tmp_path, write_tokens, names, kind):
    table = KINDS[kind][0]
    tensors = {"prompt_embeddings": table, **HEAD}
    delta = from_peft(read_delta(write_tokens(kind, tensors, modules_to_save=["classifier"])), names, sites=SITES)
    write_peft(delta, names, tmp_path / "out", task="classify", sites=SITES)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(written[name], values)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == (kind, "SEQ_CLS", True)
    assert (config["num_virtual_tokens"], config["num_layers"]) == (P, LAYERS)
    assert config["token_dim"] == (HEADS * WIDTH if kind == "PREFIX_TUNING" else HIDDEN)
    assert config["modules_to_save"] == ["classifier"]
    again = from_peft(read_delta(tmp_path / "out"), names, sites=SITES)
    assert (again.algo, again.config, again.digest) == (delta.algo, delta.config, delta.digest)


def test_an_encoder_is_not_written_as_it_is(tmp_path, make_delta, names):
    tensors = {"layers.0.attn.core.encoder.mindpet_delta_ptuning2.source.trunk.embedding.table": PROMPT}
    delta = make_delta(tensors, "ptuning2", projection=True, tokens=P)
    with pytest.raises(DeltaError, match=r"lacks layers\.0\.attn\.core\..*\.source\.table") as caught:
        write_peft(delta, names, tmp_path / "out", task="lm", sites=SITES)
    assert "petrun.commands.export" in caught.value.hint
