"""The prefixes of ChatGLM's own P-Tuning v2, against transformers' glm with the prefix in its cache."""

import json

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.errors import DeltaError
from petrun.inference.assembly import attach_delta, set_delta
from petrun.interop.convert import algo_of, foreign_tokens, to_net_names
from petrun.tensors import array_entries, write_safetensors
from tests.models.agreement import CHATGLM, batch, check_cache, forward, last_two, load, stored
from tests.models.transformers_cases import GLM, PREFIX_TOKENS, prefix_table

PREFIX = "transformer.prefix_encoder."
TABLE = prefix_table(GLM)


def write(folder, tensors):
    """A checkpoint as the trainer writes it: the model's config.json beside the prefix alone."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CHATGLM, "pre_seq_len": PREFIX_TOKENS}))
    entries = array_entries({PREFIX + name: values for name, values in tensors.items()})
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})
    return folder


def test_logits_and_cache_equal_transformers(tmp_path, pynative):
    model = load(tmp_path / "base", "chatglm")
    delta = read_delta(write(tmp_path / "prefix", {"embedding.weight": TABLE}))
    assert (delta.origin, algo_of(delta), foreign_tokens(delta)) == ("chatglm", "ptuning2", PREFIX_TOKENS)
    converted = to_net_names(delta, model.names, sites=model.sites)
    set_delta(attach_delta(model, converted), converted)
    np.testing.assert_allclose(
        last_two(forward(model.net, batch(left=False)), left=False), stored("glm-prefix")["logits"], atol=1e-4
    )
    check_cache(model)


def test_a_projection_is_replaced_by_its_result(tmp_path):
    model = load(tmp_path / "base", "chatglm")
    rng = np.random.default_rng(0)
    total = TABLE.shape[1]
    projection = {
        "trans.0.weight": rng.normal(size=(5, total)).astype(np.float32), "trans.0.bias": rng.normal(size=5).astype(np.float32),
        "trans.2.weight": rng.normal(size=(total, 5)).astype(np.float32), "trans.2.bias": rng.normal(size=total).astype(np.float32),
    }  # fmt: skip
    delta = read_delta(write(tmp_path / "prefix", {"embedding.weight": TABLE, **projection}))
    tables = list(to_net_names(delta, model.names, sites=model.sites).tensors.values())
    w0, b0, w2, b2 = (values.astype(np.float64) for values in projection.values())
    wanted = np.tanh(TABLE @ w0.T + b0) @ w2.T + b2
    np.testing.assert_allclose(np.concatenate(tables, 1), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embedding.weight": TABLE[:, :-1]}, r"embedding.weight is \[3, 63\], must be \[3, 64\]: this base has 2 layers of 2 key/value"),
        ({"embedding.weight": TABLE, "trans.0.bias": TABLE[0]}, "trans.0.weight is missing"),
        ({"embedding.weight": TABLE, "other": TABLE[0]}, "other belongs to nothing"),
        ({"embedding.weight": TABLE * np.float32(np.nan)}, "NaN"),
    ],
)  # fmt: skip
def test_a_prefix_that_does_not_fit(tmp_path, tensors, message):
    model = load(tmp_path / "base", "chatglm")
    with pytest.raises(DeltaError, match=message):
        to_net_names(read_delta(write(tmp_path / "prefix", tensors)), model.names, sites=model.sites)
