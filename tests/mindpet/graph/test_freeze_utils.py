"""MindPet's freeze interface: its semantics, its exceptions, and what is mended."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from petrun.delta import AdapterDense, LoRADense, LowRankAdapterDense, PrefixEncoder, PrefixLayer
from petrun.errors import PetrunError, TargetError, TrainingError
from petrun.graph import freeze_delta, freeze_from_config, freeze_modules
from petrun.mindpet.utils.constants import DELTA_LIST
from petrun.mindpet.utils.exceptions import MindPetError, ModelConfigFreezeInfoError, ReadYamlFileError, UnexpectedError


class Block(nn.Cell):
    def __init__(self):
        super().__init__()
        self.query = LoRADense(4, 4, 2, 4)
        self.output = AdapterDense(4, 4, bottleneck_size=2)
        self.wide = LowRankAdapterDense(4, 4, reduction_factor=2)
        self.norm = nn.LayerNorm((4,))


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.CellList([Block(), Block()])
        self.prefix = PrefixLayer(4, 2, 2, 4, 3, 3)
        self.encoder = PrefixEncoder(2, 1, 2, 2, True, 3, 0.0)
        self.beta = ms.Parameter(np.ones(2, np.float32), name="beta")
        self.head = nn.Dense(4, 3)


def trains(net):
    return {name for name, p in net.parameters_and_names() if p.requires_grad}


def named(net, *parts):
    return {name for name, _ in net.parameters_and_names() if any(part in name for part in parts)}


def frozen_numbers(net):
    return {name for name, p in net.parameters_and_names() if "Float" not in str(p.dtype)}


def test_include_freezes_exclude_releases_both_leave_alone():
    net = Net()
    before = trains(net)
    freeze_modules(net, include=["blocks.*"], exclude=["blocks.*.norm.*", "head.bias"])
    assert trains(net) == before - {n for n in named(net, "blocks.") if ".norm." not in n}
    net.head.bias.requires_grad = False
    net.head.weight.requires_grad = False
    net.blocks[0].norm.gamma.requires_grad = False
    freeze_modules(net, include=["*.norm.*"], exclude=["*.norm.*", "head.*"])
    # Released; and where both match, as it was: one frozen, the others not.
    assert {"head.bias", "head.weight"} <= trains(net)
    assert named(net, ".norm.") - trains(net) == {"blocks.0.norm.gamma"}


def test_patterns_are_globs_over_whole_names_and_cases_differ():
    net = Net()
    freeze_modules(net, include=["head"])
    assert "head.weight" in trains(net)
    freeze_modules(net, include=["HEAD.*"])
    assert "head.weight" in trains(net)
    freeze_modules(net, include=["h?ad.[wb]*"])
    assert not named(net, "head.") & trains(net)


MODES = {
    "lora": ("mindpet_delta_lora",),
    "adapter": ("mindpet_delta_adapter",),
    "low_rank_adapter": ("mindpet_delta_low_rank_adapter",),
    "prefixtuning": ("mindpet_delta_prefixtuning",),
    "prefix": ("mindpet_delta_prefixtuning",),
    "ptuning2": ("mindpet_delta_ptuning2",),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_what_the_algorithm_owns(mode):
    net = Net()
    summary = freeze_delta(net, mode)
    expected = named(net, *MODES[mode]) - frozen_numbers(net)
    assert expected and trains(net) == expected
    assert {p.name for p in summary.parameters} == expected
    assert summary.trained_values == sum(p.size for n, p in net.parameters_and_names() if n in expected)
    assert 0 < summary.share < 1


def test_every_mode_of_mindpet_is_known():
    assert set(MODES) - {"prefix"} | {"bitfit"} == set(DELTA_LIST)


@pytest.mark.parametrize("mode", ["LoRA", "LORA", "Low_Rank_Adapter", "PrefixTuning", "BitFit", "Prefix"])
def test_a_mode_may_be_written_in_any_case(mode):
    """D8, D9: MindPet takes `LoRA` and then freezes everything; `prefix`, as its manual has it, is refused."""
    one, other = Net(), Net()
    freeze_delta(one, mode)
    freeze_delta(other, mode.lower())
    assert trains(one) == trains(other) != set()


def test_a_mode_after_another_trains_its_own():
    """D10: MindPet never releases, so that after two modes nothing trains."""
    net = Net()
    for mode in ("lora", "bitfit", "adapter", "lora"):
        freeze_delta(net, mode)
        fresh = Net()
        freeze_delta(fresh, mode)
        assert trains(net) == trains(fresh) != set()


def test_bitfit_trains_biases_and_shifts_but_not_those_of_deltas():
    """D5: MindPet leaves out LayerNorm's beta, and trains the biases inside adapters and prefixes."""
    net = Net()
    freeze_delta(net, "bitfit")
    blocks = {f"blocks.{i}.{leaf}" for i in (0, 1) for leaf in ("query.bias", "output.bias", "wide.bias", "norm.beta")}
    assert trains(net) == blocks | {"head.bias"}


def test_bitfit_knows_a_users_own_cell_by_its_parts_not_by_its_name():
    net = nn.SequentialCell()
    net.mindpet_delta_lora = nn.Dense(2, 2)
    freeze_delta(net, "bitfit")
    assert trains(net) == {"mindpet_delta_lora.bias"}


def test_names_of_version_1_0_0():
    net = nn.Cell()
    net.tk_delta_lora_a = ms.Parameter(np.ones(2, np.float32), name="tk_delta_lora_a")
    net.weight = ms.Parameter(np.ones(2, np.float32), name="weight")
    freeze_delta(net, "lora")
    assert trains(net) == {"tk_delta_lora_a"}


def test_include_and_exclude_come_after_the_mode():
    net = Net()
    freeze_delta(net, "lora", include=["blocks.0.*"], exclude=["head.*"])
    assert trains(net) == {"head.weight", "head.bias"} | named(net, "blocks.1.query.mindpet_delta_lora")
    freeze_delta(net, "lora", include=["*"], exclude=["*lora*"])
    assert trains(net) == named(net, "mindpet_delta_lora")
    # Falsy ones count as none.
    freeze_delta(net, "lora", include=[], exclude=())
    assert trains(net) == named(net, "mindpet_delta_lora")


def test_token_numbers_never_train():
    net = Net()
    freeze_modules(net, exclude=["*"])
    assert frozen_numbers(net) and not frozen_numbers(net) & trains(net)


def test_without_strict_a_wrong_pattern_is_silent_as_in_mindpet():
    net = Net()
    freeze_modules(net, include=["*", "no.such"])
    assert trains(net) == set()
    assert freeze_delta(nn.Dense(2, 2), "lora").parameters == ()


def test_strict_names_patterns_that_match_nothing_and_zero_trainables():
    """D11: a typing error in a pattern is silent in MindPet."""
    with pytest.raises(TargetError, match=r"include haed\.\* matches no parameter"):
        freeze_modules(Net(), include=["haed.*", "embedding.*"], strict=True)
    with pytest.raises(TargetError, match="exclude no matches no parameter"):
        freeze_delta(Net(), "lora", exclude=["no"], strict=True)
    with pytest.raises(TrainingError, match="nothing is left to train"):
        freeze_modules(Net(), include=["*"], strict=True)
    with pytest.raises(TrainingError, match="no parameter that mode lora trains"):
        freeze_delta(nn.Dense(2, 2), "lora", strict=True)
    assert freeze_delta(Net(), "lora", exclude=["head.*"], strict=True).parameters


@pytest.mark.parametrize("wrong", ["*", [], (), ("*",), 0, [123, "*"], {"*"}])
def test_patterns_must_be_a_list_of_text(wrong):
    for name in ("include", "exclude"):
        with pytest.raises(TypeError, match=name):
            freeze_modules(Net(), **{name: wrong})
        if wrong:
            with pytest.raises(UnexpectedError, match=name):
                freeze_delta(Net(), "lora", **{name: wrong})


def test_documented_exceptions():
    with pytest.raises(TypeError, match="Cell"):
        freeze_modules(123, include=["*"])
    with pytest.raises(ValueError, match="include or exclude"):
        freeze_modules(Net())
    with pytest.raises(TypeError, match="Cell"):
        freeze_delta(123, "lora")
    for mode in ("", 123, "delta", None):
        with pytest.raises(ValueError, match="lora, prefixtuning"):
            freeze_delta(Net(), mode)
    assert issubclass(MindPetError, PetrunError) and str(MindPetError()) == ""
    assert str(UnexpectedError("so")) == "so" == UnexpectedError("so").error_info


def write(folder, text):
    path = folder / "freeze.yaml"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "include", "exclude"),
    [
        ("freeze:\n  include: ['blocks.*']\n  exclude: ['*.norm.*']\n", ["blocks.*"], ["*.norm.*"]),
        ("freeze: {include: ['*bias']}\nparams: {lr: 1}\n", ["*bias"], None),
        ("freeze: {exclude: ['head.*']}\n", None, ["head.*"]),
    ],
)
def test_a_file_says_what_the_arguments_say(tmp_path, text, include, exclude):
    """With one list alone MindPet passes an empty one for the other, and fails."""
    one, other = Net(), Net()
    freeze_from_config(one, write(tmp_path, text))
    freeze_modules(other, include, exclude)
    assert trains(one) == trains(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "params: {lr: 1}",
        "freeze:",
        "freeze: {}",
        "freeze: ['*']",
        "freeze: {lr: 1}",
        "freeze: {include: ['*'], x: 1}",
    ],
)
def test_a_file_that_does_not_say_what_to_freeze(tmp_path, text):
    with pytest.raises(ModelConfigFreezeInfoError, match=r"freeze\.yaml"):
        freeze_from_config(Net(), write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path):
    path = write(tmp_path, "freeze: {include: ['*']}")
    (tmp_path / "link.yaml").symlink_to(path)
    (tmp_path / "broken.yaml").write_text("freeze: [", "utf-8")
    for name, error in (
        ("missing.yaml", ReadYamlFileError),
        ("link.yaml", ReadYamlFileError),
        ("broken.yaml", UnexpectedError),
        ("", UnexpectedError),
    ):
        with pytest.raises(error, match="cannot read the configuration"):
            freeze_from_config(Net(), str(tmp_path / name))
    # MindPet opens the file for writing.
    (tmp_path / "freeze.yaml").chmod(0o400)
    freeze_from_config(Net(), path)


def test_documented_exceptions_of_the_file(tmp_path):
    path = write(tmp_path, "freeze: {include: '*'}")
    with pytest.raises(TypeError, match="include"):
        freeze_from_config(Net(), path)
    with pytest.raises(TypeError, match="Cell"):
        freeze_from_config(123, path)
    for wrong in (123, None):
        with pytest.raises(TypeError, match="config_path"):
            freeze_from_config(Net(), wrong)
    with pytest.raises(ValueError, match="empty"):
        freeze_from_config(Net(), "")
    with pytest.raises(TrainingError):
        freeze_from_config(Net(), write(tmp_path, "freeze: {include: ['*']}"), strict=True)
