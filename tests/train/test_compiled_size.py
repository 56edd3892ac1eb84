"""What the compiler is given: its time grows with the function graphs and nodes of a step, of which each layer adds the same number."""

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from tests.graph.test_graph_key import train_step
from tests.tiny import CLASSIFIERS, CONFIGS, write_base

GRAPHS = {"bert": 97, "gpt2": 84, "llama": 113, "opt": 98}
"""What a layer may add: function graphs after type inference, with LoRA on each of its linear layers."""


def size(folder, family, layers):
    """(function graphs, nodes, inputs of nodes) of the training step after type inference, where nothing is inlined yet."""
    (key,) = CONFIGS[family].keys() & {"num_hidden_layers", "n_layer"}
    base = write_base(folder / f"base-{layers}", family, **{key: layers})
    step = train_step(base, lora={"target": ("all-linear",)}, task="classify" if family in CLASSIFIERS else "instruct")
    ids = Tensor(np.ones((2, 4), np.int32))
    targets = Tensor(np.zeros(2, np.int32)) if family in CLASSIFIERS else ids
    ms.set_context(save_graphs=2, save_graphs_path=str(folder / f"graphs-{layers}"))
    try:
        step.compile(True, Tensor(1.0, ms.float32), targets, ids, ids, ids)
    finally:
        ms.set_context(save_graphs=0)
    (written,) = (folder / f"graphs-{layers}").rglob("*type_inference*.ir")
    lines = written.read_text(encoding="utf-8", errors="replace").splitlines()
    nodes = [line for line in lines if re.match(r" +%\d+\(.*?\) = ", line)]
    graphs = sum(line.startswith("subgraph @") for line in lines)
    return np.array([graphs, len(nodes), sum(len(re.findall(r"[%@]\w+", node)) - 1 for node in nodes)])


@pytest.mark.all_only
@pytest.mark.parametrize("family", GRAPHS)
def test_each_layer_adds_as_much(tmp_path, graph_mode, monkeypatch, family):
    """A loop over the parameters, or a tuple that it makes longer, adds more for each layer than for the one before."""
    monkeypatch.setenv("MS_DEV_DUMP_IR_PASSES", "type_inference,validate")
    one, two, three = (size(tmp_path, family, layers) for layers in (1, 2, 3))
    # BERT's first layer is the last as well where it is the only one.
    np.testing.assert_allclose(three - two, two - one, atol=2)
    assert (two - one)[0] <= GRAPHS[family], f"{(two - one)[0]} function graphs a layer"
