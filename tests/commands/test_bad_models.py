"""A user's own model that cannot be imported, built, called or trained: every message names the user's own line."""

import numpy as np
import pytest

NET = """
import mindspore as ms
from mindspore import nn


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self, hidden=4, classes=2, width=3):
        super().__init__()
        self.first = nn.Dense(width, hidden)
        self.second = nn.Dense(hidden, classes)

    def construct(self, x):
        return self.second(ms.ops.relu(self.first(x)))


class Image(Net):
    inputs = ("image",)


class Two(Net):
    def construct(self, x, y):
        return self.second(self.first(x + y))


class Flat(Net):
    def construct(self, x):
        return self.second(self.first(x)).sum(-1)


class Bare(nn.Cell):
    inputs = ("x",)

    def __init__(self):
        super().__init__()
        self.w = ms.Parameter(ms.Tensor([[1.0, 2.0]] * 3), name="w")

    def construct(self, x):
        return ms.ops.matmul(x, self.w)


class Numbers(Net):
    inputs = (1, 2)


class Imports(Net):
    def construct(self, x):
        import mindspore.ops

        return self.second(mindspore.ops.relu(self.first(x)))


def build(hidden=4):
    return Net(hidden)


def fails():
    raise RuntimeError("no luck")


def leaves():
    raise SystemExit(0)


def asks(need):
    return Net()


def pair():
    return Net(), "sites"


def empty():
    return nn.ReLU()


def text():
    return "net"


number = 5
image, two, flat, bare, numbers, imports = Image, Two, Flat, Bare, Numbers, Imports
wide = lambda: Net(width=5)
narrow = lambda: Net(classes=1)
"""


def line_of(text):
    return f"net.py:{NET[: NET.index(text)].count(chr(10)) + 1}"


OWN = {
    "no such file": ("nix.py:build", "", ["--model nix.py:build: nix.py cannot be read"]),
    "no such module": ("nix:build", "", ["no module nix is installed", "path/file.py:function"]),
    "module beside": ("net:build", "", ["no module net is installed", "--model net.py:build"]),
    "no such function": ("net.py:bild", "", ["--model net.py:bild: there is no bild in it. Did you mean build"]),
    "no function": ("net.py:number", "", ["number is a int, not a function"]),
    "raises": (
        "net.py:fails",
        "",
        [f"{line_of('no luck')}: RuntimeError: no luck", "--debug shows the whole traceback"],
    ),
    "exits": ("net.py:leaves", "", [f"{line_of('SystemExit(0)')}: SystemExit: 0"]),
    "returns text": ("net.py:text", "", ["returned str", "It must return a mindspore.nn.Cell"]),
    "returns a pair": ("net.py:pair", "", ["returned (Net, str)"]),
    "returns no parameters": ("net.py:empty", "", ["its net has no parameters"]),
    "wants an argument": (
        "net.py:asks",
        "",
        ["missing a required argument: 'need'; it takes asks(need)", "--set model.kwargs.NAME=VALUE"],
    ),
    "unknown argument": (
        "net.py:build",
        "--set model.kwargs.hiden=3",
        ["unexpected keyword argument 'hiden'; it takes build(hidden=4)"],
    ),
    "argument of a wrong type": (
        "net.py:build",
        "--set model.kwargs.hidden=x",
        ["TypeError: For 'Dense', the 'out_channels' must be int"],
    ),
    "syntax error": ("bad.py:f", "", ["bad.py:1: SyntaxError"]),
    "import error": ("lost.py:f", "", ["lost.py:1: ModuleNotFoundError: No module named 'nixda'"]),
    "inputs that are no names": ("net.py:numbers", "", ["its net's `inputs` is (1, 2), not names of arrays"]),
    "inputs that the data lacks": (
        "net.py:image",
        "",
        ["rows.npz: no array 'image', which the model takes", "Arrays found: x"],
    ),
    "inputs that construct does not take": (
        "net.py:two",
        "",
        ["construct(x, y) is given x: missing a required argument: 'y'"],
    ),
    "a shape that does not fit": (
        "net.py:wide",
        "",
        [f"{line_of('return self.second(ms.ops')}: ValueError: For 'MatMul' the input dimensions must be equal"],
    ),
    "no classes": ("net.py:flat", "", ["its net returns (2,) for 2 rows", "It must return logits (B, C)"]),
    "one class": ("net.py:narrow", "", ["its net has 1 outputs, the data 2 classes"]),
    "does not compile": ("net.py:imports", "", [f"{line_of('        import mindspore.ops')}: does not compile: "]),
    "nothing to adapt": ("net.py:bare", "", ["the model has no nn.Dense cell that a delta could be attached to"]),
    "the base of another net": ("net.py:build", "--base bert", ["bert: holds none of the model's 4 tensors"]),
    "text rows": ("net.py:build", "--data reviews.jsonl", ["reviews.jsonl: the rows are text"]),
    "labels beyond its outputs": ("net.py:build", "--data many.npz", ["its net has 2 outputs, the data 8 classes"]),
}


@pytest.mark.parametrize("name", OWN)
def test_model_of_ones_own(place, refused, name):
    spelled, more, words = OWN[name]
    (place / "net.py").write_text(NET)
    (place / "bad.py").write_text("def f(:\n")
    (place / "lost.py").write_text("import nixda\n")
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    np.savez(place / "rows.npz", x=x, label=[0, 1] * 3)
    np.savez(place / "many.npz", x=x, label=[0, 1, 7] * 2)
    refused(f"train --model {spelled} --data rows.npz --out run --steps 1 {more}", words)
