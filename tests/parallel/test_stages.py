"""Which stage each cell of a net goes to, without compiling anything."""

import re

import pytest

from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.kernels import step_counter
from petrun.parallel import stages
from petrun.parallel.layout import Layout

SITES = Sites(blocks="body.layers.*")


class Weight:
    def __init__(self, trains):
        self.requires_grad = trains
        self.parallel_optimizer = True


class Cell:
    def __init__(self, trains=None, drops=False):
        self.pipeline_stage = None
        self.step = step_counter() if drops else None
        self.weights = [] if trains is None else [Weight(trains)]

    def get_parameters(self, expand):
        return self.weights

    def cells_and_names(self):
        return [("", self)]


class Net(Cell):
    """embed, tables, layers 0 to 11 with a dropout each, norm, head."""

    def __init__(self, layers=12, trained=True):
        super().__init__()
        self.cells = {"embed": Cell(False), "tables": Cell(), "body": Cell(), "body.layers": Cell()}
        for i in range(layers):
            self.cells[f"body.layers.{i}"] = Cell()
            self.cells[f"body.layers.{i}.q"] = Cell(trained)
            self.cells[f"body.layers.{i}.drop"] = Cell(drops=True)
        self.cells.update(norm=Cell(False), head=Cell(True))

    def cells_and_names(self):
        return [("", self), *self.cells.items()]

    def open_stages(self, count):
        self.tables = [Cell() for _ in range(count)]
        return self.tables


def test_layers_are_dealt_out_and_the_rest_stands_before_or_behind():
    net = Net()
    stages.assign_stages(net, SITES, Layout(dp=1, tp=1, pp=3, zero=0, micro_batches=3))
    for path, cell in net.cells.items():
        number = re.match(r"body\.layers\.(\d+)", path)
        wanted = int(number[1]) // 4 if number else {"embed": 0, "tables": 0, "norm": 2, "head": 2}.get(path)
        # What lies inside a layer, and what holds the layers, is left alone.
        assert cell.pipeline_stage == (None if path.count(".") > 2 else wanted), path
    assert net.pipeline_stage is None and [cell.pipeline_stage for cell in net.tables] == [0, 1, 2]
    counters = [net.cells[f"body.layers.{i}.drop"].step for i in (3, 4, 11)]
    # By identity: == of MindSpore's parameters compares their values.
    wanted = [step_counter(), step_counter(1), step_counter(2)]
    assert [counter is one for counter, one in zip(counters, wanted, strict=True)] == [True, True, True]
    assert [counter.name for counter in counters[1:]] == ["petrun_dropout_step_1", "petrun_dropout_step_2"]


def test_a_weight_of_two_stages_is_not_cut_by_zero():
    """A tied embedding is sent from the first stage to the last, where MindSpore would leave it whole."""
    net = Net()
    net.cells["head"].weights = net.cells["embed"].weights
    net.cells["body.layers.1.q"].weights = net.cells["body.layers.0.q"].weights
    stages.assign_stages(net, SITES, Layout(dp=2, tp=1, pp=3, zero=1, micro_batches=3))
    left = {path for path, cell in net.cells.items() if any(not w.parallel_optimizer for w in cell.weights)}
    assert left == {"embed", "head"}


def test_what_makes_no_pipeline_is_refused():
    with pytest.raises(ConfigError, match="pp=8 does not divide 12 layers"):
        stages.assign_stages(Net(), SITES, Layout(dp=1, tp=1, pp=8, zero=0, micro_batches=8))
    with pytest.raises(ConfigError, match="in the layers of stage 0, 1 of 0 to 1 nothing trains"):
        stages.assign_stages(Net(trained=False), SITES, Layout(dp=1, tp=1, pp=2, zero=0, micro_batches=2))
    for net, sites in ((Cell(), SITES), (Net(), Sites())):
        with pytest.raises(ConfigError, match="does not say how its layers are divided into stages"):
            stages.assign_stages(net, sites, Layout(dp=1, tp=1, pp=2, zero=0, micro_batches=2))
