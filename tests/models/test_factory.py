"""Which family a base is of, and models from the user's own functions."""

import json
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import save_file

from petrun.errors import ModelError, SetupError, WeightsError
from petrun.graph.sites import Sites
from petrun.models.factory import ModelSource, is_factory, load_model, read_model_config
from petrun.models.families import FAMILIES
from tests.models import reference

CODE = """
import mindspore as ms
from mindspore import Parameter, Tensor, nn

from neighbour import WIDTH
from petrun.graph.sites import Sites


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self, wide, classes):
        super().__init__()
        self.first = nn.Dense(WIDTH, wide)
        self.second = nn.Dense(wide, classes)
        self.norm = nn.BatchNorm1d(wide)
        self.steps = Parameter(Tensor([3], ms.int64), name="counted", requires_grad=False)

    def construct(self, x):
        return self.second(self.norm(nn.ReLU()(self.first(x))))


class Namesakes(nn.Cell):
    def __init__(self):
        super().__init__()
        self.a = Parameter(Tensor([1.0]), name="w")
        self.b = Parameter(Tensor([1.0]), name="w")


def make(wide=4, classes=2):
    return Net(wide, classes)


def with_sites():
    return Net(4, 2), Sites(linears={"all": "*"}, default_roles=("all",), head="second")


def number():
    return 3


def half():
    return Net(4, 2), "sites"


def bare():
    return nn.ReLU()


def broken():
    return 1 / 0  # line 51


def twice():
    return Namesakes()


CONSTANT = 5
"""


@pytest.fixture
def user(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    yield file
    sys.modules.pop("neighbour", None)


def test_families():
    assert " ".join(FAMILIES) == "bert gpt2 llama opt bloom glm chatglm phi3 gemma mixtral qwen3_moe roberta t5"
    types = (
        "bert gpt2 llama mistral qwen2 qwen3 opt bloom glm glm4 chatglm phi3 gemma "
        "gemma2 gemma3_text mixtral qwen3_moe roberta xlm-roberta t5 mt5"
    )
    assert " ".join(t for f in FAMILIES.values() for t in f.model_types) == types


def test_is_factory():
    assert is_factory("package.module:make") and is_factory("dir/file.py:make") and is_factory("m:Class.make")
    assert not any(map(is_factory, (None, "bert", "module:", ":make", "a::b")))


@pytest.mark.parametrize(
    ("config", "family", "message"),
    [
        ({}, None, "has no model_type"),
        (
            {"model_type": "bart"},
            None,
            "model_type = 'bart' is not supported; supported: bert, bloom, chatglm, gemma,",
        ),
        ({"model_type": 3}, None, "model_type = 3 is not supported"),
        ({"model_type": "gpt2"}, "llama", "--model llama contradicts model_type = 'gpt2'"),
        ({"model_type": "qwen2"}, "mistral", "--model mistral contradicts"),
        ({"model_type": "gpt2"}, "brt", "--model brt: no such family. Did you mean bert"),
        ({"model_type": "gpt2"}, "module:", "--model module:: no such family"),
    ],
)
def test_wrong_family(tmp_path, config, family, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for call in (read_model_config, lambda *a: load_model(ModelSource(base=a[0], family=a[1]))):
        with pytest.raises(ModelError) as caught:
            call(tmp_path, family)
        assert message in caught.value.message


def test_the_user_may_name_the_family(tmp_path):
    config = {k: v for k, v in reference.LLAMA.items() if k != "model_type"}
    tensors = reference.make({**reference.LLAMA, "model_type": "qwen2"})
    reference.write(tmp_path, config, tensors)
    model = load_model(ModelSource(base=tmp_path, family="qwen2"))
    assert (model.family, model.model_type) == ("llama", "qwen2")
    assert read_model_config(tmp_path, "qwen2")["model_type"] == "qwen2"
    with pytest.raises(WeightsError, match=r"q_proj\.bias"):
        load_model(ModelSource(base=tmp_path, family="llama"))


def test_config_elsewhere(tmp_path):
    reference.write(tmp_path / "base", reference.GPT2, reference.make(reference.GPT2))
    (tmp_path / "base/config.json").rename(tmp_path / "there.json")
    with pytest.raises(ModelError, match="model's shape is not known"):
        load_model(tmp_path / "base")
    assert load_model(ModelSource(base=tmp_path / "base", config=tmp_path / "there.json")).family == "gpt2"


def test_wrong_use(tmp_path):
    base = reference.write(tmp_path, {**reference.GPT2, "activation_function": "gelo"}, reference.make(reference.GPT2))
    with pytest.raises(ModelError, match="a bert base cannot do task lm; it does: classify") as caught:
        load_model(reference.write(tmp_path / "bert", reference.BERT, reference.make(reference.BERT)), task="lm")
    assert "Families for lm: gpt2" in caught.value.hint
    with pytest.raises(ModelError, match=r'config\.json: activation_function = "gelo" is not supported') as caught:
        load_model(base)
    assert "Did you mean gelu" in caught.value.hint
    with pytest.raises(ModelError, match="is for a model of your own"):
        load_model(ModelSource(base=base, kwargs={"a": 1}))
    with pytest.raises(ModelError, match="no base is given"):
        load_model(ModelSource(config=base))
    with pytest.raises(SetupError, match="no bfloat16 matrix product") as caught:
        load_model(base, compute_dtype="bfloat16")
    assert "float32" in caught.value.hint


def test_a_file(user, mode):
    model = load_model(ModelSource(family=f"{user}:make", kwargs={"classes": 3}), num_labels=3, seed=5)
    assert (model.family, model.model_type, model.inputs, model.tasks) == (
        f"{user}:make",
        f"{user}:make",
        ("x",),
        ("classify",),
    )
    assert (model.hf_config, model.sites, model.num_labels, model.folder) == ({}, Sites(), 3, None)
    assert set(model.names) == {
        "first.weight",
        "first.bias",
        "second.weight",
        "second.bias",
        "norm.gamma",
        "norm.beta",
        "norm.moving_mean",
        "norm.moving_variance",
        "counted",
    }
    assert not model.net.training
    assert model.net(Tensor(np.ones((2, 3), np.float32))).shape == (2, 3)
    again = load_model(ModelSource(family=f"{user}:make", kwargs={"classes": 3}), seed=5)
    other = load_model(ModelSource(family=f"{user}:make", kwargs={"classes": 3}), seed=6)
    assert model.base_digest == again.base_digest != other.base_digest


def test_an_edited_file_is_read_again(user):
    assert load_model(ModelSource(family=f"{user}:make")).net.first.out_channels == 4
    user.write_text(CODE.replace("wide=4", "wide=5"))
    assert load_model(ModelSource(family=f"{user}:make")).net.first.out_channels == 5


def test_sites(user):
    model = load_model(ModelSource(family=f"{user}:with_sites"))
    assert (model.sites.head, model.sites.default_roles) == ("second", ("all",))


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_its_checkpoint_is_strict(user, tmp_path, kind):
    start = load_model(ModelSource(family=f"{user}:make"), seed=1)
    values = {p.name: p.asnumpy() + (1 if p.dtype == ms.float32 else 4) for p in start.net.get_parameters()}
    base = tmp_path / f"trained.{kind}"

    def write(tensors):
        if kind == "ckpt":
            ms.save_checkpoint([{"name": n, "data": Tensor(a)} for n, a in tensors.items()], str(base))
        else:
            save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, base)

    write(values)
    model = load_model(ModelSource(base=base, family=f"{user}:make"))
    for parameter in model.net.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), values[parameter.name])
        assert parameter.asnumpy().dtype == values[parameter.name].dtype
    assert model.base_digest not in ("", start.base_digest)
    assert model.folder == tmp_path
    for change, message in [
        ({"second.bias": None}, "second.bias (2) is missing"),
        ({"third.bias": np.ones(2, np.float32)}, "third.bias (2) belongs to no parameter"),
        ({"first.weight": np.ones((3, 4), np.float32)}, "first.weight is (3, 4), must be (4, 3)"),
        ({"counted": np.ones(1, np.float32)}, "counted is float32, must be int64"),
        ({"first.bias": np.full(4, np.nan, np.float32)}, "first.bias holds 4 NaN or Inf among 4 values"),
    ]:
        write({n: a for n, a in {**values, **change}.items() if a is not None})
        with pytest.raises(WeightsError) as caught:
            load_model(ModelSource(base=base, family=f"{user}:make"))
        assert message in caught.value.message


def test_a_module(user, monkeypatch):
    monkeypatch.syspath_prepend(str(user.parent))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    model = load_model(ModelSource(family="mine:make"))
    assert isinstance(model.net, nn.Cell)
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        ("mak", {}, "there is no mak in it. Did you mean make"),
        ("Net.nothing", {}, "there is no nothing in it"),
        ("CONSTANT", {}, "CONSTANT is a int, not a function"),
        ("make", {"width": 3}, "got an unexpected keyword argument 'width'; it takes make(wide=4, classes=2)"),
        ("number", {}, "returned int"),
        ("half", {}, "returned (Net, str)"),
        ("bare", {}, "its net has no parameters"),
        ("broken", {}, "mine.py:51: ZeroDivisionError: division by zero"),
        ("twice", {}, "several parameters of its net are called w"),
    ],
)
def test_wrong_functions(user, function, kwargs, message):
    with pytest.raises(ModelError) as caught:
        load_model(ModelSource(family=f"{user}:{function}", kwargs=kwargs))
    assert message in caught.value.message
    assert caught.value.message.startswith(f"--model {user}:{function}")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(:\n", "mine.py:1: SyntaxError: invalid syntax"),
        ("x = 1\nimport no_such_thing\n", "mine.py:2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise SystemError('early')\n", "mine.py:1: SystemError: early"),
    ],
)
def test_wrong_files(tmp_path, code, message):
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ModelError) as caught:
        load_model(ModelSource(family=f"{file}:make"))
    assert message in caught.value.message
    assert "--debug" in caught.value.hint
    assert not any(
        m.startswith("petrun_user_") and getattr(sys.modules[m], "__file__", "") == str(file) for m in sys.modules
    )


def test_nothing_there(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"nowhere\.py cannot be read: No such file"):
        load_model(ModelSource(family=f"{tmp_path}/nowhere.py:make"))
    with pytest.raises(ModelError, match=r"no module no_such_package\.inner is installed") as caught:
        load_model(ModelSource(family="no_such_package.inner:make"))
    assert "path/file.py:function" in caught.value.hint
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("")
    with pytest.raises(ModelError, match="no module beside is installed") as caught:
        load_model(ModelSource(family="beside:make"))
    assert "--model beside.py:make" in caught.value.hint
    with pytest.raises(ModelError, match="cannot do task lm"):
        load_model(ModelSource(family="beside.py:make"), task="lm")
