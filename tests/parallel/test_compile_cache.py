"""Graphs that were kept are loaded, and compute what a compilation anew computes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from petrun.graph.compilations import compilations
from petrun.graph.graph_store import GraphStore
from petrun.kernels import step_counter
from petrun.parallel.compile_cache import WithParameters, counts, keep_graphs
from tests.graph.test_graph_key import llama, rows, train_step, user_net  # noqa: F401

X = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))


class Net(nn.Cell):
    """A layer, a constant, a Python number, and a parameter of the process that is no part of the cell."""

    def __init__(self, beside, factor=2.0, shift=(0.0, 1.0)):
        super().__init__()
        self.layer = nn.Dense(3, 2, weight_init="ones", bias_init="zeros")
        self.factor = factor
        self.shift = Tensor(np.array(shift, np.float32))
        object.__setattr__(self, "beside", beside)

    def construct(self, count, x):
        y = self.layer(x) * self.factor + self.shift + self.beside
        if count:
            ops.assign_add(self.beside, Tensor(1.0, ms.float32))
        return y, y.sum()


def beside(value):
    return Parameter(Tensor(value, ms.float32), name="beside", requires_grad=False)


@pytest.fixture
def store(tmp_path, graph_mode):
    """An empty store, in use."""
    found = GraphStore(tmp_path / "graphs")
    keep_graphs(found)
    counts().loaded = counts().stored = 0
    counts().not_keyed.clear()
    yield found
    keep_graphs(None)


def computed(net, *arguments):
    return [part.asnumpy().copy() for part in net(*arguments)]


def equal(some, others):
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def anew(net, *arguments):
    """What a compilation without the cache computes."""
    keep_graphs(None)
    return computed(net, *arguments)


def test_a_graph_is_stored_once_and_loaded_by_the_next(store):
    expected = computed(Net(beside(5.0)), False, X)
    assert (counts().stored, counts().loaded) == (1, 0)
    with compilations() as count:
        assert equal(computed(Net(beside(5.0)), False, X), expected)
    assert (counts().stored, counts().loaded, count.graphs) == (1, 1, 1)
    assert len(list(store.folder.glob("*.graph"))) == 1


def test_a_loaded_graph_reads_and_writes_the_parameters_of_its_own_net(store):
    computed(Net(beside(5.0)), True, X)
    mine = beside(7.0)
    net = Net(mine)
    net.layer.weight.set_data(Tensor(np.full((2, 3), 3.0, np.float32)))
    found = computed(net, True, X)
    assert counts().loaded == 1
    assert np.allclose(found[0], X.asnumpy().sum(1, keepdims=True) * 3 * 2 + np.array([0.0, 1.0]) + 7)
    assert mine.asnumpy() == 8
    mine.set_data(Tensor(100.0, ms.float32))
    net.layer.weight.set_data(Tensor(np.zeros((2, 3), np.float32)))
    assert np.array_equal(computed(net, True, X)[0], [[100, 101], [100, 101]])
    assert mine.asnumpy() == 101


@pytest.mark.parametrize("changed", [{"factor": 3.0}, {"shift": (2.0, 3.0)}])
def test_another_constant_is_another_graph(store, changed):
    computed(Net(beside(5.0)), False, X)
    found = computed(Net(beside(5.0), **changed), False, X)
    assert (counts().stored, counts().loaded) == (2, 0)
    assert np.array_equal(found[0], anew(Net(beside(5.0), **changed), False, X)[0])


def test_the_order_of_compilations_does_not_matter(store):
    """MindSpore itself names a graph by how many were compiled before."""
    other = Tensor(np.ones((4, 3), np.float32))
    first = [computed(Net(beside(1.0)), flag, x)[0] for flag, x in ((True, X), (False, X), (False, other))]
    again = [computed(Net(beside(1.0)), flag, x)[0] for flag, x in ((False, other), (True, X), (False, X))]
    assert (counts().stored, counts().loaded) == (3, 3)
    assert equal(first, (again[1], again[2], again[0]))


def test_a_second_graph_of_a_net_is_found_whether_the_first_was_compiled_or_loaded(store):
    """A compilation leaves marks on the cells, a load does not."""
    for loaded in (0, 2):
        net = Net(beside(1.0))
        computed(net, True, X)
        computed(net, False, X)
        assert (counts().stored, counts().loaded) == (2, loaded)


class Slope(nn.Cell):
    """The loss, or the loss and the gradient of a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Dense(3, 2, weight_init="ones", bias_init="zeros")
        self.weights = ParameterTuple(self.layer.trainable_params())
        self.gradient = ms.value_and_grad(self.loss, None, self.weights)

    def loss(self, x):
        return self.layer(x).sum()

    def construct(self, wanted, x):
        if wanted:
            value, slopes = self.gradient(x)
            return value, slopes[0]
        return self.loss(x), x


def test_a_gradient_is_found_whichever_graph_was_compiled_before(store):
    """A compilation puts a copy in the place of the tuple of weights: a resume begins with another graph than the run."""
    for loaded, order in ((0, (True, False)), (2, (False, True))):
        net = Slope()
        for wanted in order:
            assert net(wanted, X)[0].asnumpy() == 2 * X.asnumpy().sum()
        assert (counts().stored, counts().loaded) == (2, loaded)


def test_a_changed_users_file_is_compiled_anew(store, tmp_path):
    path, x = tmp_path / "net.py", Tensor(np.ones((1, 2), np.float32))

    def value(scale):
        net = user_net(path, scale=scale)
        net.layer.weight.set_data(Tensor(np.ones((2, 2), np.float32)))
        net.layer.bias.set_data(Tensor(np.zeros(2, np.float32)))
        return net(x).asnumpy()[0, 0]

    assert [value("2.0"), value("3.0"), value("2.0")] == [4, 6, 4]
    assert (counts().stored, counts().loaded) == (2, 1)


@pytest.mark.parametrize("keep", [0, 60])
def test_a_cut_file_is_compiled_anew_and_replaced(store, keep):
    expected = computed(Net(beside(5.0)), False, X)
    (path,) = store.folder.glob("*.graph")
    path.write_bytes(path.read_bytes()[:keep])
    assert equal(computed(Net(beside(5.0)), False, X), expected)
    assert (counts().stored, counts().loaded) == (2, 0)
    assert equal(computed(Net(beside(5.0)), False, X), expected)
    assert counts().loaded == 1


def test_a_graph_that_mindspore_cannot_read_is_compiled_anew_and_replaced(store):
    """Whole by its digest: such as one of a MindSpore that was built otherwise under the same version."""
    expected = computed(Net(beside(5.0)), False, X)
    (path,) = store.folder.glob("*.graph")
    store.write(path.stem, b"no graph", ["beside"])
    assert equal(computed(Net(beside(5.0)), False, X), expected)
    assert (counts().stored, counts().loaded) == (2, 0)


def test_a_graph_with_parameters_that_are_not_here_is_not_loaded(store):
    expected = computed(Net(beside(5.0)), False, X)
    (path,) = store.folder.glob("*.graph")
    store.write(path.stem, store.read(path.stem).content, ["beside", "another.weight"])
    assert equal(computed(Net(beside(5.0)), False, X), expected)
    assert counts().loaded == 0


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_else_happens(tmp_path, graph_mode, capsys):
    (tmp_path / "file").write_text("")
    keep_graphs(GraphStore(tmp_path / "file" / "graphs"))
    for _ in range(2):
        assert np.array_equal(computed(Net(beside(5.0)), False, X)[1], 5 * 4 + (3 + 12) * 4 + 2)
    said = capsys.readouterr().out
    assert said.count("compiled graphs are not kept") == 1 and "file" in said


def test_a_full_disk_is_said_once_and_the_graph_is_used(store, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("petrun.tensors.atomic.os.replace", full)
    for value in (1.0, 2.0):
        assert computed(Net(beside(5.0), factor=value), False, X)
    assert counts().stored == 0 and not list(store.folder.glob("*.graph"))
    said = capsys.readouterr().out
    assert said.count("compiled graphs are not kept") == 1 and "No space left on device" in said


def test_the_training_step_of_a_loaded_graph_is_bit_exact(store, llama):  # noqa: F811
    """LoRA's alpha, its dropout, the counter of its masks, the optimizer's moments: four steps of two nets."""

    def losses():
        step, found = train_step(llama), []
        for number in range(4):
            step_counter().set_data(Tensor(number, ms.int32))
            found.append(step(*rows())[0].asnumpy())
        return found, [p.asnumpy().copy() for p in step.get_parameters() if p.requires_grad]

    first, second = losses(), losses()
    assert counts().loaded >= 1 and counts().not_keyed == []
    keep_graphs(None)
    third = losses()
    assert first[0] == second[0] == third[0] and len(set(map(float, first[0]))) == 4
    for a, b, c in zip(first[1], second[1], third[1], strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)


def test_what_mindspore_raises_of_a_stored_graph_leads_to_a_compilation(store, monkeypatch):
    expected = computed(Net(beside(5.0)), False, X)
    net = Net(beside(5.0))

    def refuse(parameters):
        monkeypatch.undo()
        raise RuntimeError("Load MindIR failed")

    monkeypatch.setattr(WithParameters, "set_weights_values", lambda self, parameters: refuse(parameters))
    assert equal(computed(net, False, X), expected)
    assert counts().loaded == 0 and not list(store.folder.glob("*.graph"))
