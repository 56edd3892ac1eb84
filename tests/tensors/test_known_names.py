"""Names that say what a tensor is."""

import pytest

from petrun.tensors.known_names import ADAMW_STATE, OPTIMIZER_STATE, is_spare


def test_the_list_holds_each_pattern_once_and_adamws_own():
    assert len(set(OPTIMIZER_STATE)) == len(OPTIMIZER_STATE)
    assert set(ADAMW_STATE) <= set(OPTIMIZER_STATE)


@pytest.mark.parametrize(
    ("name", "spare"),
    [
        ("adam_m.layer.weight", True),
        ("moment1.layer.weight", True),
        ("global_step", True),
        ("layer.weight", False),
        # A cell of the model that is called like a slot: no parameter is called `weight`.
        ("accum.weight", False),
        ("adam_m.other.weight", False),
    ],
)
def test_state_belongs_to_a_parameter_of_the_file_or_is_a_counter(name, spare):
    assert is_spare(name, OPTIMIZER_STATE, {"layer.weight", "accum.weight"}) == spare
