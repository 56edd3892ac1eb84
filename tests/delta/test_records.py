"""What the methods' records say of their tensors, against the nets that they attach to."""

import pytest

from petrun.delta import METHODS, find_method, method_of_tensor, names_where, parts_of
from petrun.delta.forms import NotStored
from petrun.errors import ConfigError
from petrun.models.factory import load_model
from tests.delta.test_contract import LACKING, SETTINGS
from tests.tiny import write_base

ADDED = "mindpet_delta_"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("bases") / "gpt2", "gpt2")


@pytest.mark.parametrize("label", [label for label in SETTINGS if (label, "gpt2") not in LACKING])
def test_the_tensors_that_a_method_adds_to_layers_are_those_of_its_record(base, label):
    algo, settings = SETTINGS[label]
    method = find_method(algo)
    loaded = load_model(base)
    owned = method.attach(loaded.net, method.config(**settings), loaded.sites, 0)
    shapes = {p.name: tuple(p.shape) for p in loaded.net.get_parameters()}
    for name in owned:
        path, _, leaf = name.rpartition(".")
        # Adapters are cells behind a layer: their tensors are no layer's own.
        if leaf.startswith(ADDED) and f"{path}.weight" in shapes:
            assert method_of_tensor(name) in parts_of(algo) and method.owns(name)
            form = method.tensors[leaf]
            out_size, in_size = shapes[f"{path}.weight"]
            assert len(shapes[name]) == form.axes
            for axis, size in ((form.outputs, out_size), (form.inputs, in_size)):
                assert axis is None or shapes[name][axis] == size
        else:
            assert method_of_tensor(name) is None
    whole = method.trains in ("some", "all")
    assert all(ADDED not in name for name in owned) == whole


def test_no_two_methods_give_a_tensor_the_same_name():
    leaves = [leaf for method in METHODS.values() for leaf in method.tensors]
    assert len(leaves) == len(set(leaves)) > 10


def test_the_method_that_stands_for_an_encoder_has_a_table():
    found = {name: method.used_as(method.config()) for name, method in METHODS.items()}
    assert {name: used for name, used in found.items() if used} == {"prefix": "ptuning2", "ptuning": "prompt"}
    for name, used in found.items():
        if used:
            assert METHODS[used].table and METHODS[used].used_as(METHODS[used].config()) is None
            assert isinstance(METHODS[name].peft, NotStored) and isinstance(METHODS[used].peft, tuple)


def test_a_composition_says_what_its_parts_say():
    """lora+bitfit: products beside full tensors, which no graph of several adapters holds; lora+r_drop: LoRA in every respect."""
    lora, joined, dropped = METHODS["lora"], find_method("lora+bitfit"), find_method("r_drop+lora")
    config = joined.config(rank=2)
    assert joined.low_rank is lora.low_rank and joined.tensors == lora.tensors and joined.why_no_sum(config) is None
    assert joined.switch is None and dropped.switch is lora.switch and dropped.why_no_sum(dropped.config()) is None
    assert "DoRA" in joined.why_no_sum(joined.config(variant="dora"))
    assert (joined.trains, find_method("bitfit+r_drop").trains, METHODS["r_drop"].trains) == (
        "added",
        "some",
        "nothing",
    )
    assert "is a loss" in METHODS["r_drop"].why_no_sum(METHODS["r_drop"].config())


def test_names_come_off_the_table():
    assert names_where(lambda method: method.trains == "all") == "full"
    assert [method.name for method in parts_of("lora + bitfit")] == ["lora", "bitfit"]
    with pytest.raises(ConfigError, match="unknown algorithm 'lorra'"):
        parts_of("lorra")
