"""What --over means."""

import pytest

from petrun.errors import ConfigError
from petrun.training.sweep.members import members_of, parse_axes


def test_every_combination_is_a_run_and_a_flag_or_a_key_names_the_setting():
    axes = parse_axes(["lr=1e-4, 3e-4", "delta.rank=4,8"], {}, ())
    assert [axis.key for axis in axes] == ["optim.lr", "delta.rank"]
    found = members_of(axes)
    assert [member.name for member in found] == [
        "lr=1e-4,delta.rank=4",
        "lr=1e-4,delta.rank=8",
        "lr=3e-4,delta.rank=4",
        "lr=3e-4,delta.rank=8",
    ]
    assert found[1].sets == ("optim.lr=1e-4", "delta.rank=8")


@pytest.mark.parametrize(
    "name, key",
    [
        ("batch-size", "train.batch_size"),
        ("rank", "delta.rank"),
        ("algo", "algo"),
        ("base", "model.base"),
        ("seed", "train.seed"),
    ],
)
def test_names_of_flags_are_known(name, key):
    (axis,) = parse_axes([f"{name}=1,2"], {}, ())
    assert axis.key == key


def test_a_value_may_be_a_list():
    (axis,) = parse_axes(["target=[[q,v],[q,k,v],all-linear]"], {}, ())
    assert axis.values == ('["q", "v"]', '["q", "k", "v"]', "all-linear")
    assert [member.name for member in members_of((axis,))] == [
        "target=q+v",
        "target=q+k+v",
        "target=all-linear",
    ]


def test_names_of_folders_are_short_and_differ():
    (axis,) = parse_axes([f"model.base={'a' * 200}/x,{'a' * 200}/y"], {}, ())
    names = [member.name for member in members_of((axis,))]
    assert len(set(names)) == 2 and all(len(name) < 140 and "/" not in name for name in names)


@pytest.mark.parametrize(
    "over, flags, sets, words",
    [
        ([], {}, (), "at least one --over"),
        (["lr"], {}, (), "--over lr is not of the form"),
        (["=1,2"], {}, (), "not of the form"),
        (["lr="], {}, (), "--over lr names no value"),
        (["lr=1,2,1"], {}, (), "names 1 twice"),
        (["lr=1,2", "optim.lr=3"], {}, (), "--over optim.lr is given twice"),
        (["lr=1,2"], {"optim.lr": ("--lr", 1.0)}, (), "--lr sets optim.lr"),
        (["lr=1,2"], {}, ("optim.lr=3",), "--set sets optim.lr"),
        (["out=a,b"], {}, (), "all runs of a sweep have the same out.dir"),
        (["target=[[q,v],"], {}, (), "is no list"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_refused(over, flags, sets, words):
    with pytest.raises(ConfigError) as raised:
        parse_axes(over, flags, sets)
    assert words in raised.value.message
