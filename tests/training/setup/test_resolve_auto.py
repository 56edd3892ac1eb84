"""`--parallel auto` chooses by the memory plan of the run's own net."""

import json

import pytest

from petrun.config.load import load_run_config
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.training.setup.memory_plan import memory_of
from petrun.training.setup.resolve_auto import resolve_auto
from tests.tiny import CONFIGS

CARDS = 4


@pytest.fixture
def given(tmp_path):
    """Resolve what the user typed for a small llama."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]))

    def load(*sets, algo="lora"):
        flags = {
            "algo": ("--algo", algo),
            "model.base": ("--base", str(tmp_path)),
            "parallel.auto": ("--parallel", True),
        }
        return load_run_config(None, flags, ["data.seq_len=32", *sets], embedded=None)

    return load


def planned(config, layout, **changes):
    """The plan of a run with this layout, as `petrun train` prints it."""
    return memory_of(config, Device("ascend", "bfloat16", None), layout, 32, None).plan(**changes)


def test_every_line_is_the_plan_of_a_run(given):
    sets = ("train.accumulate=2", "optim.weight_decay=0")
    config, plain = given(*sets, algo="full").config, Layout(dp=CARDS)
    # A little less than data parallel needs.
    gib = planned(config, plain).total / 2**30 / 0.9 * 0.99
    settled, why = resolve_auto(given(*sets, f"parallel.card_memory={gib}", algo="full"), CARDS)
    assert why[1] == f"dp=4,tp=1,pp=1,zero=0: {planned(config, plain)}: too much"
    found = settled.config.parallel
    chosen = Layout(dp=found.dp, tp=found.tp, pp=found.pp, zero=found.zero, sequence=found.sequence)
    assert (chosen, found.recompute) != (plain, "none")
    assert f"{planned(config, chosen, recompute=found.recompute)}: fits" in why[-2]


@pytest.mark.parametrize(("algo", "sets", "unknown"), [
    ("lora", ["delta.variant=dora"], "the memory of a DoraDense"),
    ("lora+r_drop", [], "the loss of --algo lora+r_drop"),
])  # fmt: skip
def test_a_method_that_the_plan_does_not_follow_is_planned_as_lora(given, algo, sets, unknown):
    resolved = given(*sets, algo=algo)
    settled, why = resolve_auto(resolved, CARDS)
    assert why[0] == f"planned as --algo lora: the plan does not know {unknown}"
    assert f"{planned(given().config, Layout(dp=CARDS))}: fits" in why[-2]
    # The run itself keeps its method.
    assert (settled.config.algo, settled.config.delta) == (resolved.config.algo, resolved.config.delta)
