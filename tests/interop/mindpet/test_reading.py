"""MindPet's LoRA checkpoints: every naming, the optimizer's tensors beside them, and no alpha."""

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.delta.lora import LoraConfig
from petrun.errors import DeltaError
from petrun.interop.convert import from_mindpet, to_net_names

A, B = np.full((4, 6), 2, np.float32), np.full((5, 4), 3, np.float32)


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        ("blocks.0.query.mindpet_delta_lora_{}", "blocks.0.query"),
        ("blocks.0.query.tk_delta_lora_{}", "blocks.0.query"),
        ("blocks.0.query.mindpet_delta_lora_{}".upper().lower(), "blocks.0.query"),
    ],
)
def test_nested_names(write, stored, path):
    delta = write({stored.format("a"): A, stored.format("b"): B})
    assert (delta.origin, delta.algo) == ("mindpet", "")
    delta = from_mindpet(delta, 8)
    assert delta.algo == "lora" and len(delta.digest) == 64
    assert delta.config == {
        "rank": 4,
        "alpha": 8.0,
        "variant": "lora",
        "target": [path],
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    np.testing.assert_array_equal(delta.tensors[f"{path}.mindpet_delta_lora_a"], A)
    np.testing.assert_array_equal(delta.tensors[f"{path}.mindpet_delta_lora_b"], B)
    assert LoraConfig(**delta.config).site(path) == (4, 2.0)


@pytest.mark.parametrize("mark", ["mindpet_delta", "tk_delta"])
def test_bare_names(write, mark):
    """A LoRADense that is the net itself saves A and B in upper case."""
    delta = from_mindpet(write({f"{mark}_lora_A": A, f"{mark}_lora_B": B}), 8)
    assert set(delta.tensors) == {"mindpet_delta_lora_a", "mindpet_delta_lora_b"}
    assert delta.config["target"] == [""]


def test_the_optimizers_tensors_are_left_out(write):
    lora = {"q.mindpet_delta_lora_a": A, "q.mindpet_delta_lora_b": B}
    head = {"head.weight": np.ones((2, 5), np.float32)}
    state = {f"{slot}.{n}": a for slot in ("moment1", "moment2", "accum", "stat") for n, a in {**lora, **head}.items()}
    scalars = {n: np.array(1, np.float32) for n in ("learning_rate", "beta1_power", "beta2_power", "momentum")}
    counts = {n: np.array([5], np.int32) for n in ("global_step", "epoch_num", "step_num")}
    delta = from_mindpet(write({**lora, **state, **head, **scalars, **counts}), 4)
    assert set(delta.tensors) == {*lora, *head}


def test_a_cell_that_is_called_like_a_slot_is_kept(write):
    """`accum.weight` is state only where the file holds `weight` too."""
    arrays = {
        "accum.mindpet_delta_lora_a": A,
        "accum.mindpet_delta_lora_b": B,
        "momentum": np.ones((2, 2), np.float32),
    }
    assert set(from_mindpet(write(arrays), 4).tensors) == set(arrays)


def test_ranks_differ(write):
    arrays = {
        "v.mindpet_delta_lora_a": np.ones((2, 6), np.float32),
        "v.mindpet_delta_lora_b": np.ones((5, 2), np.float32),
    }
    for path in ("q", "k"):
        arrays |= {f"{path}.mindpet_delta_lora_a": A, f"{path}.mindpet_delta_lora_b": B}
    config = from_mindpet(write(arrays), 8).config
    assert (config["rank"], config["rank_pattern"], config["target"]) == (4, {"v": 2}, ["k", "q", "v"])


GOOD = {"q.mindpet_delta_lora_a": A, "q.mindpet_delta_lora_b": B}


def test_alpha_is_never_guessed(write):
    with pytest.raises(DeltaError, match="MindPet's checkpoints do not hold alpha") as caught:
        to_net_names(write(GOOD), {}, alpha=None)
    assert "--alpha" in caught.value.hint
    for alpha in (0, float("nan"), True):
        with pytest.raises(DeltaError, match="alpha must be a number other than 0"):
            from_mindpet(read_delta(caught_path(caught)), alpha)


def caught_path(caught):
    from pathlib import Path

    return Path(caught.value.message.partition(": ")[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"q.mindpet_delta_lora_a": A}, "q has only one of the two LoRA matrices"),
        ({"mindpet_delta_lora_B": B}, "the net itself has only one of the two"),
        (
            {**GOOD, "q.mindpet_delta_lora_b": np.ones((5, 3), np.float32)},
            r"of q, \[4, 6\] and \[5, 3\], do not multiply",
        ),
        ({**GOOD, "q.tk_delta_lora_a": A}, "are the same parameter"),
        ({**GOOD, "q.mindpet_delta_lora_b": B * np.nan}, "holds NaN or infinity in 20 of 20 values"),
        (
            {**GOOD, "a.mindpet_delta_adapter.mindpet_delta_adapter_block.x": A},
            "several MindPet algorithms: lora, adapter",
        ),
        ({"tk_delta_ptuning2_embedding.embedding_table": A}, "is a MindPet ptuning2 delta, which has no alpha"),
        ({"q.mindpet_delta_hyper_w": A}, "is a MindPet hyper_w delta, which is not supported"),
        (
            {"layer.mindpet_delta_prefixtuning_wte.embedding_table": A},
            "is a MindPet prefix delta, whose numbers were never trained",
        ),
    ],
)
def test_what_is_refused(write, arrays, message):
    with pytest.raises(DeltaError, match=message):
        from_mindpet(write(arrays), 8)
