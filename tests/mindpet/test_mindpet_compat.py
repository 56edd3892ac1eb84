"""Code written for MindPet runs on petrun: import paths, signatures, and the way from training to `petrun eval`.

What is mended is tested where it lives: D1, D2 tests/mindpet/delta/test_prefix_layer.py; D3 test_low_rank_adapter.py; D4 test_r_drop.py;
D5, D8-D11 tests/mindpet/graph/test_freeze_utils.py; D6 test_adapter.py, test_low_rank_adapter.py and here; D7 test_dense.py; D12, D13
tests/mindpet/graph/test_ckpt_util.py. tests/MINDPET.md says what they are.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Model, Tensor, nn

from petrun import delta, graph
from petrun.delta import METHODS
from petrun.graph import TrainableParamsCheckPoint, freeze_delta
from petrun.inference.assembly import attach_delta, fit_delta, open_delta, set_delta
from petrun.kernels import step_counter
from petrun.mindpet.delta.delta_constants import VALID_TENSOR_DATATYPE
from petrun.mindpet.layers.activation import _activation
from petrun.mindpet.log.log import get_logger
from petrun.mindpet.utils.version_control import get_activation, get_dropout
from petrun.mindpet.utils.version_utils import is_version_ge, is_version_le
from petrun.models.factory import load_model
from petrun.train.loss import SupervisedLoss
from tests.tiny import write_base

ROOT = Path(__file__).resolve().parents[2]
ALIASED = """
import importlib, importlib.abc, importlib.util, sys

class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mindpet":
            return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return importlib.import_module("PARENT" + spec.name.removeprefix("mindpet"))

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Alias())
from mindpet.delta import AdapterDense, AdapterLayer, LoRADense, LowRankAdapterDense, LowRankAdapterLayer
from mindpet.delta import PrefixEncoder, PrefixLayer, RDropLoss, rdrop_repeat
from mindpet.delta.adapter import AdapterDense, AdapterLayer
from mindpet.delta.lora import LoRADense
from mindpet.delta.low_rank_adapter import LowRankAdapterDense, LowRankAdapterLayer, LowRankLinear
from mindpet.delta.delta_constants import VALID_TENSOR_DATATYPE
from mindpet.delta.prefix_layer import PrefixLayer
from mindpet.delta.prompt_tuning import PromptTuning
from mindpet.delta.ptuning2 import PrefixEncoder
from mindpet.delta.r_drop import RDropLoss, rdrop_repeat
from mindpet.graph import TrainableParamsCheckPoint, freeze_delta, freeze_from_config, freeze_modules
from mindpet.graph.ckpt_util import TrainableParamsCheckPoint
from mindpet.graph.freeze_utils import freeze_delta, freeze_from_config, freeze_modules
from mindpet.utils.constants import DEFAULT_FLAGS, DEFAULT_MODES, DELTA_LIST
from mindpet import mindpet_sdk
from mindpet.layers.activation import LeakyReLU, LogSigmoid, LogSoftmax, _activation, get_activation
from mindpet.log.log import get_logger, logger, set_logger_property
from mindpet.utils.version_control import get_activation, get_dropout
from mindpet.utils.version_utils import is_version_ge, is_version_le
from mindpet.utils.exceptions import AbsolutePathError, LinkPathError, MindPetError
from mindpet.utils.exceptions import ModelConfigFreezeInfoError, ReadYamlFileError, UnexpectedError
import petrun.delta
assert LoRADense is petrun.delta.LoRADense and PrefixEncoder is petrun.delta.PrefixEncoder
print(LoRADense(4, 4, 2, 4).mindpet_delta_lora_a.shape)
"""


@pytest.mark.parametrize("parent", ["petrun.mindpet", "petrun"])
def test_mindpets_import_paths_can_be_aliased(parent):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "4"}
    done = subprocess.run(
        [sys.executable, "-c", ALIASED.replace("PARENT", parent)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 4)"


def test_types_that_a_layer_may_have_are_mindpets():
    assert [ms.float16, ms.float32, ms.bfloat16] == VALID_TENSOR_DATATYPE


@pytest.mark.parametrize(
    ("ours", "theirs", "at_least", "at_most"),
    [
        # As MindPet 1.0.4 answers them.
        ("2.10.0", "2.9.0", True, False),
        ("1.10.1", "2.0.0rc1", False, True),
        ("2.0.0rc1", "2.0.0", True, True),
        ("1.10", "1.10.1", True, True),
        ("1.11.0", "1.11.0", True, True),
    ],
)
def test_versions_are_compared_as_mindpet_does(ours, theirs, at_least, at_most):
    assert is_version_ge(ours, theirs) is at_least and is_version_le(ours, theirs) is at_most


def test_a_version_without_a_dot_is_refused():
    with pytest.raises(ValueError, match="numbers between dots"):
        is_version_ge("2", "2.0")


def test_mindpets_helpers_of_versions():
    assert get_dropout(0.25).p == 0.25
    assert get_activation("gelu").cls_name == "GELU" and get_activation(None) is None
    with pytest.raises(KeyError, match="no activation is called"):
        get_activation("gelo")
    assert len(_activation) == 25


def test_the_log_prints_lines_and_writes_no_files(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    log = get_logger("of this test", stdout_level="WARNING", file_name=["service.log"])
    log.info("not printed")
    log.warning("a line of %s", "numbers")
    printed = capsys.readouterr().out.splitlines()
    assert "file_name without effect: petrun writes no log files" in printed[0]
    assert printed[1].startswith("[WARNING]") and printed[1].endswith(": a line of numbers") and len(printed) == 2
    assert get_logger("of this test") is log and not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="stdout_level must be one of"):
        get_logger("another", stdout_level="LOUD")
    with pytest.raises(TypeError, match="no argument filename"):
        get_logger("another", filename="a.log")


F32 = ms.float32
SIGNATURES = {
    # In MindPet's order. One difference: compute_dtype, there float16.
    "LoRADense": (
        "in_channels out_channels lora_rank lora_alpha lora_dropout lora_a_init lora_b_init param_init_type compute_dtype kwargs",
        {"lora_dropout": 0.0, "lora_b_init": "zeros", "param_init_type": F32, "compute_dtype": F32},
    ),
    "AdapterLayer": (
        "hidden_size bottleneck_size non_linearity param_init_type compute_dtype",
        {"bottleneck_size": 64, "non_linearity": "gelu", "param_init_type": F32, "compute_dtype": F32},
    ),
    "AdapterDense": (
        "in_channels out_channels weight_init bias_init has_bias activation bottleneck_size non_linearity param_init_type compute_dtype",
        {"weight_init": "normal", "bias_init": "zeros", "has_bias": True, "activation": None, "bottleneck_size": 64},
    ),
    "LowRankLinear": (
        "in_channels out_channels rank weight_init bias_init has_bias param_init_type compute_dtype",
        {"rank": 1, "weight_init": "normal", "bias_init": "zeros", "has_bias": True, "compute_dtype": F32},
    ),
    "LowRankAdapterLayer": (
        "hidden_size reduction_factor low_rank_size low_rank_w_init non_linearity param_init_type compute_dtype",
        {"low_rank_size": 1, "low_rank_w_init": "xavier_uniform", "non_linearity": "gelu", "compute_dtype": F32},
    ),
    "LowRankAdapterDense": (
        "in_channels out_channels weight_init bias_init has_bias activation reduction_factor low_rank_size low_rank_w_init "
        "non_linearity param_init_type compute_dtype",
        {"weight_init": "normal", "reduction_factor": 1, "low_rank_size": 1, "low_rank_w_init": "xavier_uniform"},
    ),
    "PrefixLayer": (
        "prefix_token_num batch_size num_heads hidden_dim embed_dim mid_dim dropout_rate",
        {"mid_dim": 512, "dropout_rate": 0.1},
    ),
    "PrefixEncoder": (
        "pre_seq_len num_layers num_heads kv_channels prefix_projection projection_dim dropout_prob parallel_config out_perm",
        {"parallel_config": None, "out_perm": (2, 0, 3, 1, 4)},
    ),
    "RDropLoss": ("", {}),
    "TrainableParamsCheckPoint": ("directory prefix config", {"prefix": "DELTA_CKP", "config": None}),
    "freeze_modules": ("model include exclude strict", {"include": None, "exclude": None, "strict": False}),
    "freeze_delta": ("model mode include exclude strict", {"include": None, "exclude": None, "strict": False}),
    "freeze_from_config": ("model config_path strict", {"strict": False}),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_mindpets(name):
    order, defaults = SIGNATURES[name]
    subject = getattr(graph if hasattr(graph, name) else delta, name)
    parameters = {n: p for n, p in inspect.signature(subject).parameters.items() if p.kind is not p.KEYWORD_ONLY}
    assert list(parameters) == order.split()
    for key, value in defaults.items():
        assert parameters[key].default == value


@pytest.mark.parametrize("kind", ["LoRADense", "AdapterDense", "LowRankAdapterDense"])
def test_no_layer_computes_in_half_precision_unless_asked(kind):
    """D6: in MindPet's default the base's own product overflows from 65504 on."""
    extra = {"lora_rank": 1, "lora_alpha": 1} if kind == "LoRADense" else {}
    cell = getattr(delta, kind)(2, 2, weight_init="ones", bias_init="zeros", **extra)
    out = cell(Tensor([[40000.0, 40000.0]], ms.float32)).asnumpy()
    assert np.isfinite(out).all() and (np.abs(out / 80000.0 - 1) < 0.05).all()


class ForModel(nn.Cell):
    """The loss of a batch alone, which mindspore.train.Model wants."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.loss = SupervisedLoss(net)

    def construct(self, targets, ids, segments, types):
        value, _ = self.loss(Tensor(3.0, ms.float32), targets, ids, segments, types)
        return value


ALGORITHMS = {
    "lora": {"rank": 2, "alpha": 4.0},
    "adapter": {"bottleneck": 3},
    "low_rank_adapter": {"reduction_factor": 4, "low_rank_size": 2},
}
INPUTS = (
    np.random.default_rng(0).integers(4, 12, (3, 5)).astype(np.int32),
    np.ones((3, 5), np.int32),
    np.zeros((3, 5), np.int32),
)


@pytest.mark.parametrize("algo", ["lora", "adapter", pytest.param("low_rank_adapter", marks=pytest.mark.all_only)])
def test_a_model_trained_in_mindpets_way_is_a_delta(tmp_path, algo):
    """freeze_delta, Model.train with TrainableParamsCheckPoint; then base plus that file computes what the trained net computes."""
    ms.set_context(mode=ms.GRAPH_MODE)
    base = write_base(tmp_path / "base", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trained = load_model(base, num_labels=2)
    method = METHODS[algo]
    owned = method.attach(trained.net, method.config(**ALGORITHMS[algo]), trained.sites, 0)
    freeze_delta(trained.net, algo, exclude=["classifier.*"], strict=True)
    heads = {"classifier.weight", "classifier.bias"}
    assert {p.name for p in trained.net.trainable_params()} == set(owned) | heads
    targets = np.array([0, 1, 1], np.int32)
    names = ["targets", "ids", "segments", "types"]
    rows = ds.NumpySlicesDataset((targets, *INPUTS), names, shuffle=False).batch(3)
    model = Model(ForModel(trained.net), optimizer=nn.Adam(trained.net.trainable_params(), 0.01))
    model.train(3, rows, callbacks=[TrainableParamsCheckPoint(str(tmp_path), "delta")], dataset_sink_mode=False)
    alpha = 4.0 if algo == "lora" else None
    read = open_delta(str(tmp_path / "delta-3_1.ckpt"), alpha)
    fresh = load_model(base, num_labels=2)
    fitted = fit_delta(read, fresh, alpha)
    assert fitted.algo == algo and set(fitted.shapes) == set(owned) | heads
    assembled = attach_delta(fresh, fitted)
    set_delta(assembled, fitted)
    inputs = [Tensor(x) for x in INPUTS]
    step_counter().set_data(Tensor(0, ms.int32))
    untouched = load_model(base, num_labels=2).net.set_train(False)(*inputs).asnumpy()
    expected = trained.net.set_train(False)(*inputs).asnumpy()
    assert np.abs(expected - untouched).max() > 1e-3
    np.testing.assert_allclose(fresh.net.set_train(False)(*inputs).asnumpy(), expected, rtol=1e-5, atol=1e-6)
