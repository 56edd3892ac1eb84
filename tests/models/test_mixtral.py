"""Mixtral: test_agreement.py holds its numbers, this file what it has of its own."""

import numpy as np
import pytest

from petrun.errors import ModelError, WeightsError
from petrun.kernels import primitives_only
from petrun.models import mixtral
from petrun.models.factory import load_model
from petrun.tensors import open_tensors
from tests.models.agreement import check_logits, check_sites, forward, load, tensors
from tests.models.reference import write
from tests.models.transformers_cases import MIXTRAL, batch

MOE = "model.layers.{}.block_sparse_moe"


def joined(parts):
    """The tensors of a mixtral as transformers 5 holds them: stacks, gate above up."""
    found = {name: tensor for name, tensor in parts.items() if "block_sparse_moe" not in name}
    for layer in range(MIXTRAL["num_hidden_layers"]):
        at, to = MOE.format(layer), f"model.layers.{layer}.mlp"
        w1, w2, w3 = (
            np.stack([parts[f"{at}.experts.{i}.{w}.weight"] for i in range(MIXTRAL["num_local_experts"])])
            for w in ("w1", "w2", "w3")
        )
        found[f"{to}.experts.gate_up_proj"], found[f"{to}.experts.down_proj"] = np.concatenate((w1, w3), 1), w2
        found[f"{to}.gate.weight"] = parts[f"{at}.gate.weight"]
    return found


def test_sites():
    sites = check_sites("mixtral")
    assert set(sites.linears) == {"q", "k", "v", "o"} and sites.default_roles == ("q", "v")
    assert sites.sublayers == ("layers.*.attn.o",)


def test_stacks_of_transformers_5_are_the_same_base(tmp_path, pynative):
    parts = load(tmp_path / "parts", "mixtral")
    stacks = load_model(write(tmp_path / "stacks", MIXTRAL, joined(tensors(MIXTRAL))))
    assert stacks.base_digest == parts.base_digest
    check_logits(stacks, "mixtral")


def test_without_the_operator_every_expert_computes_every_token(tmp_path, pynative):
    chosen = load(tmp_path / "chosen", "mixtral")
    with primitives_only():
        every = load(tmp_path / "every", "mixtral")
    assert chosen.net.layers[0].mlp.gate.product.is_fused and not every.net.layers[0].mlp.gate.product.is_fused
    check_logits(every, "mixtral")
    np.testing.assert_allclose(forward(every.net, batch(False)), forward(chosen.net, batch(False)), atol=1e-5)


def test_experts_that_are_missing_or_differ_are_named(tmp_path):
    held = tensors(MIXTRAL)
    lost = f"{MOE.format(1)}.experts.2.w3.weight"
    with pytest.raises(WeightsError, match=f"lacks {lost}, and holds other experts"):
        load_model(write(tmp_path / "lost", MIXTRAL, {n: t for n, t in held.items() if n != lost}))
    with pytest.raises(WeightsError, match=rf"{lost} is \[3, 16\] float32, .*experts.0.w3.weight is \[24, 16\]"):
        load_model(write(tmp_path / "cut", MIXTRAL, {**held, lost: held[lost][:3]}))
    with pytest.raises(WeightsError, match=r"experts.4.w1.weight .*belongs to no parameter"):
        load_model(
            write(tmp_path / "more", {**MIXTRAL, "num_local_experts": 4}, tensors({**MIXTRAL, "num_local_experts": 5}))
        )


def test_no_bits(tmp_path):
    from petrun.models.factory import ModelSource, outline_model

    folder = write(tmp_path, MIXTRAL, tensors(MIXTRAL))
    with pytest.raises(ModelError, match=r"--base-bits nf4: only single matrices .* the experts"):
        load_model(ModelSource(base=folder, quantisation="nf4"))
    with pytest.raises(ModelError, match="--base-bits int8: only single matrices"):
        outline_model(ModelSource(base=folder, quantisation="int8"))
    assert len(open_tensors(folder).names) == len(tensors(MIXTRAL))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"output_router_logits": True}, "output_router_logits = true is not supported for mixtral"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1 is not supported for mixtral"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok = 5: must be at most the number of experts, 4"),
        ({"sliding_window": -1}, "sliding_window = -1: must be an integer of at least 0"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        mixtral.parse({**MIXTRAL, **change})


def test_defaults_are_those_of_transformers():
    bare = {key: MIXTRAL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")}
    parsed = mixtral.parse({**bare, "hidden_size": 32, "num_attention_heads": 16})
    assert (parsed.experts, parsed.experts_per_token, parsed.kv_heads, parsed.eps) == (8, 2, 8, 1e-5)
    assert (parsed.rope.theta, parsed.positions, max(parsed.windows)) == (1e6, 131072, 0)
