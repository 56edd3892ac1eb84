"""A MindPet checkpoint is recognised by its names."""

import pytest

from petrun.checkpoint.mindpet_names import algorithms, current_name, parameters


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("q.tk_delta_lora_a", "q.mindpet_delta_lora_a"),
        ("mindpet_delta_lora_A", "mindpet_delta_lora_a"),
        ("q.weight", "q.weight"),
    ],
)
def test_names_of_earlier_versions(stored, name):
    assert current_name(stored) == name


def test_the_optimizers_tensors_are_no_parameters():
    shapes = {"accum.bias": (2,), "q.weight": (2, 3), "moment1.q.weight": (2, 3), "opt_step": (1,), "learning_rate": ()}
    assert parameters(shapes) == ["accum.bias", "q.weight"]
    # A parameter may be called like a counter.
    assert parameters({"momentum": (4, 4)}) == ["momentum"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["q.mindpet_delta_lora_a", "q.mindpet_delta_lora_b"], ["lora"]),
        (["q.mindpet_delta_low_rank_adapter.bias"], ["low_rank_adapter"]),
        (["q.bias", "k.bias", "head.weight", "head.bias"], ["bitfit"]),
        (["q.weight", "q.bias"], []),
        (["q.mindpet_delta_lora_a", "k.mindpet_delta_adapter.bias"], ["lora", "adapter"]),
    ],
)
def test_algorithms(names, found):
    assert algorithms(dict.fromkeys(names, (2, 2))) == found
