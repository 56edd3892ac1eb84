"""The key of a graph: the same for the same graph in every process, another for whatever changes it."""

import importlib.util
import os
import re
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta import METHODS
from petrun.delta.lora import LoraConfig
from petrun.graph import graph_key as module
from petrun.graph.freeze import freeze_all_but
from petrun.graph.graph_key import NotKeyed, code_digests, graph_key
from petrun.models.factory import load_model
from petrun.parallel.context import compiler_settings
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.tiny import write_base

LORA = {"rank": 2, "alpha": 4, "target": ("q", "v"), "dropout": 0.1}
HERE = {"mindspore": "1", "petrun": "2"}


def train_step(
    folder, *, lora=None, seed=0, peak=1e-3, clip=1.0, accumulate=1, decay=0.01, dtype="float32", task="instruct"
):
    loaded = load_model(folder, task=task, num_labels=2 if task == "classify" else None, compute_dtype=dtype)
    owned = METHODS["lora"].attach(loaded.net, LoraConfig(**(LORA | (lora or {}))), loaded.sites, seed)
    optimizer = AdamW(
        freeze_all_but(loaded.net, owned).parameters,
        Schedule(kind="constant", peak=peak, warmup_steps=0, total_steps=10),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=decay,
    )
    return TrainStep(SupervisedLoss(loaded.net), optimizer, accumulate=accumulate, clip=clip).set_train()


def rows(batch=2, tokens=4, update=True):
    ids = Tensor(np.arange(batch * tokens, dtype=np.int32).reshape(batch, tokens))
    return update, Tensor(1.0, ms.float32), ids, ids, Tensor(np.ones((batch, tokens), np.int32)), ids


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture(scope="module")
def first(llama):
    return graph_key(train_step(llama), rows(), HERE)


def test_the_same_step_built_again_has_the_same_key(llama, first):
    assert graph_key(train_step(llama), rows(), HERE).digest == first.digest


def test_another_process_finds_the_same_key(llama):
    """Two new processes, in which sets have different orders, as two starts of a job are. This one has compiled other graphs before."""
    code = (
        "import sys; from pathlib import Path; from tests.graph.test_graph_key import *; "
        "print('key', graph_key(train_step(Path(sys.argv[1])), rows(), HERE).digest)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(llama)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and re.search(r"^key [0-9a-f]{64}$", found[0], re.MULTILINE)


def test_the_parameters_beside_the_net_are_found(llama, first):
    own = {p.name for p in train_step(llama).get_parameters()}
    assert first.parameters.keys() - own == {"petrun_dropout_step", "petrun_batch_offset"}


@pytest.mark.parametrize(
    "changed",
    [
        *({"lora": {name: value}} for name, value in (("rank", 3), ("alpha", 5), ("target", ("q",)), ("dropout", 0.2))),
        {"lora": {"dropout": 0.0}},
        {"seed": 1},
        {"clip": 0.0},
        {"accumulate": 2},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_a_setting_of_the_step_changes_the_key(llama, first, changed):
    assert graph_key(train_step(llama, **changed), rows(), HERE).digest != first.digest


@pytest.mark.parametrize("changed", [{"peak": 2e-3}, {"clip": 0.5}, {"decay": 0.0}], ids=str)
def test_a_number_that_the_graph_takes_as_an_input_does_not(llama, first, changed):
    assert graph_key(train_step(llama, **changed), rows(), HERE).digest == first.digest


@pytest.mark.parametrize("changed", [{"batch": 3}, {"tokens": 5}, {"update": False}], ids=str)
def test_an_argument_changes_the_key(llama, first, changed):
    assert graph_key(train_step(llama), rows(**changed), HERE).digest != first.digest


@pytest.mark.parametrize(
    "changed",
    [{"rms_norm_eps": 1e-3}, {"num_hidden_layers": 1}, {"rope_theta": 5000.0}, {"hidden_act": "gelu"}],
    ids=str,
)
def test_the_models_config_changes_the_key(tmp_path, first, changed):
    other = write_base(tmp_path / "llama", "llama", **changed)
    assert graph_key(train_step(other), rows(), HERE).digest != first.digest


def test_the_mode_of_the_net_changes_the_key(llama, first):
    assert graph_key(train_step(llama).set_train(False), rows(), HERE).digest != first.digest


def test_a_net_that_has_trained_before_has_the_key_of_one_that_has_not(llama):
    loss = SupervisedLoss(load_model(llama, task="instruct").net)
    before = graph_key(loss, rows()[1:], HERE).digest
    assert graph_key(loss.set_train(True), rows()[1:], HERE).digest != before
    assert graph_key(loss.set_train(False), rows()[1:], HERE).digest == before


def test_values_of_weights_and_of_inputs_do_not(llama, first):
    step = train_step(llama)
    for parameter in step.get_parameters():
        parameter.set_data(parameter + 1)
    changed = (*rows()[:2], *(ids + 1 for ids in rows()[2:]))
    assert graph_key(step, changed, HERE).digest == first.digest


@pytest.mark.parametrize("name", [*HERE, "added"])
def test_the_surroundings_change_the_key(llama, first, name):
    assert graph_key(train_step(llama), rows(), {**HERE, name: "other"}).digest != first.digest


def test_a_source_of_petrun_changes_the_digests(tmp_path, monkeypatch):
    before = code_digests()
    assert before["petrun"].startswith(module.petrun.__version__) and before["mindspore"].startswith(ms.__version__)
    package = tmp_path / "petrun"
    (package / "kernels").mkdir(parents=True)
    monkeypatch.setattr(module.petrun, "__file__", str(package / "__init__.py"))
    seen = set()
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("kernels/a.cpp", "int a;"), ("kernels/a.h", "int b;")):
        (package / name).write_text(text)
        seen.add(code_digests.__wrapped__()["petrun"])
    assert len(seen) == 4
    monkeypatch.setattr(module.ms, "__version__", "0.0")
    assert code_digests.__wrapped__()["mindspore"] != before["mindspore"]


def test_the_compilers_settings_are_text_and_say_what_changes():
    before = compiler_settings()
    assert all(isinstance(value, str) for value in before.values())
    assert {"mode", "jit_config", "parallel_mode", "rank", "world", "seed", "device_target"} <= before.keys()
    ms.set_context(mode=ms.PYNATIVE_MODE if before["mode"] == "0" else ms.GRAPH_MODE)
    try:
        assert compiler_settings() != before
    finally:
        ms.set_context(mode=int(before["mode"]))


USER = """
import math
import mindspore as ms
from mindspore import nn
{imported}
SCALE = {scale}

def scaled(x):
    return x * SCALE {more}

class Net(nn.Cell):
    def __init__(self, k=1.0):
        super().__init__()
        self.layer = nn.Dense(2, 2)
        self.k = k

    def construct(self, x):
        return scaled(self.layer(x)) * self.k
"""


def user_net(path, *, scale="2.0", more="", imported="", k=1.0):
    """A net from a file, loaded anew."""
    path.write_text(USER.format(scale=scale, more=more, imported=imported))
    spec = importlib.util.spec_from_file_location("users_net", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules["users_net"] = found
    spec.loader.exec_module(found)
    return found.Net(k)


def user_key(net):
    return graph_key(net, (Tensor(np.zeros((1, 2), np.float32)),), HERE).digest


def test_a_users_own_code_is_followed(tmp_path):
    path = tmp_path / "net.py"
    same = user_key(user_net(path))
    assert user_key(user_net(path)) == same
    changed = [user_net(path, scale="3.0"), user_net(path, more="+ 1.0"), user_net(path, k=2.0)]
    keys = {user_key(net) for net in changed[2:]} | {
        user_key(user_net(path, scale="3.0")),
        user_key(user_net(path, more="+ 1.0")),
    }
    assert len(keys | {same}) == 4


def test_a_global_that_was_set_after_the_import_changes_the_key(tmp_path):
    net = user_net(tmp_path / "net.py")
    before = user_key(net)
    sys.modules["users_net"].SCALE = 5.0
    assert user_key(net) != before


def test_another_file_that_the_users_code_reads_changes_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = set()
    for text in ("def more(x):\n    return x + 1", "def more(x):\n    return x + 2"):
        (tmp_path / "petruns_helper.py").write_text(text)
        sys.modules.pop("petruns_helper", None)
        keys.add(
            user_key(user_net(tmp_path / "net.py", imported="import petruns_helper", more="+ petruns_helper.more(x)"))
        )
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("imported", "more"),
    [
        ("import os", "+ len(os.environ)"),
        ("import random", "+ random.random()"),
        ("import time", "+ time.time()"),
        ("# open", "+ float(open('x').read())"),
        ("import numpy as np # random", "+ np.random.rand()"),
    ],
)
def test_code_that_reads_the_world_has_no_key(tmp_path, imported, more):
    with pytest.raises(NotKeyed, match=imported.split()[-1]):
        user_key(user_net(tmp_path / "net.py", imported=imported, more=more))


class Holder(nn.Cell):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def construct(self, x):
        return x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (1, True),
        ("ab", "ac"),
        ((1, 2), (12,)),
        ((1, 2), [1, 2]),
        ({"a": 1}, {"b": 1}),
        (Tensor([1.0]), Tensor([2.0])),
        (Tensor([1.0]), Tensor([[1.0]])),
        (Tensor([1], ms.int32), Tensor([1], ms.int64)),
        (ms.float32, ms.float16),
        (np.float32(1), np.float32(2)),
        (np.zeros(2), np.zeros(3)),
        (ops.Softmax(0), ops.Softmax(1)),
        (ops.Softmax(0), ops.LogSoftmax(0)),
        (nn.Dense(2, 2), nn.Dense(2, 2, has_bias=False)),
        (nn.Dense(2, 2, activation="relu"), nn.Dense(2, 2, activation="tanh")),
        (lambda x: x, lambda x: x + 1),
        (Parameter(Tensor([1.0]), name="a"), Parameter(Tensor([1.0]), name="b")),
        (Parameter(Tensor([1.0]), name="a"), Parameter(Tensor([1.0]), name="a", requires_grad=False)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_cell_holds_changes_the_key(one, other):
    def key(value):
        return graph_key(Holder(value), (), HERE).digest

    assert key(one) != key(other)
    assert key(one) == key(one)


def test_tensors_in_a_tuple_are_constants():
    def key(value):
        return graph_key(Holder(0), ((Tensor([value]),),), HERE).digest

    assert key(1.0) != key(2.0)


def test_what_has_no_value_has_no_key():
    with pytest.raises(NotKeyed, match="value"):
        graph_key(Holder(object()), (), HERE)
    with pytest.raises(NotKeyed, match="value"):
        graph_key(Holder(iter([1])), (), HERE)


class Odd:
    @property
    def __dict__(self):
        raise RuntimeError("not here")


def test_an_object_that_cannot_be_read_has_no_key():
    with pytest.raises(NotKeyed, match="not here"):
        graph_key(Holder(Odd()), (), HERE)


def test_two_parameters_of_one_name_have_no_key():
    pair = [Parameter(Tensor([1.0]), name="a"), Parameter(Tensor([2.0]), name="a")]
    cell = Holder(0)
    object.__setattr__(cell, "pair", tuple(pair))
    with pytest.raises(NotKeyed, match="two parameters named a"):
        graph_key(cell, (), HERE)
