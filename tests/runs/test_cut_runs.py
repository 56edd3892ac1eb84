"""Runs whose ranks hold slices: what each writes is put together again to what all of them have."""

import json
import subprocess
import sys

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.checkpoint.state import find_state
from petrun.tensors.strategy import read_strategy

from ..conftest import ROOT
from ..parallel.one_trained import values_of
from ..tiny import ORDERS, write_base, write_rows

RECIPE = """
model: {{base: {base}}}
data: {{path: [{data}], seq_len: 16}}
parallel: {{dp: {dp}, tp: {tp}, zero: {zero}}}
train: {{batch_size: 2, steps: 3}}
out: {{dir: {out}}}
algo: lora
delta: {{rank: 4, target: [all-linear]}}
"""


class Job:
    """Ranks of a job on the front end, one after the other, the first one last."""

    def __init__(self, ascend, folder, dp, tp, zero):
        self.ascend, self.folder, self.world = ascend, folder, dp * tp
        base = write_base(folder / "base", "llama", num_attention_heads=4, num_key_value_heads=4, hidden_size=32)
        data = write_rows(folder / "rows.jsonl", ORDERS)
        (folder / "run").mkdir()
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE.format(base=base, data=data, out=folder / "run", dp=dp, tp=tp, zero=zero))

    def each(self, what, ranks=None):
        """{rank: what it holds}."""
        found = {}
        for rank in ranks or reversed(range(self.world)):
            environment = self.ascend(rank, self.world, 0)
            environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
            command = [sys.executable, "-m", "tests.parallel.one_trained", what, str(self.recipe), str(self.world)]
            done = subprocess.run(
                command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            lines = [line.removeprefix("HELD ") for line in done.stdout.splitlines() if line.startswith("HELD ")]
            found[rank] = json.loads(lines[0]) if lines else None
        return found


def check(job, dp, tp, zero, petrun):
    found = job.each("save")
    run = job.folder / "run"
    wholes = found[0]["wholes"]
    strategy = read_strategy(run / "lora" / "strategy")
    assert {"embed.weight", "layers.0.attn.q.weight"} <= set(strategy.names), "frozen parameters as well"
    assert not [entry.name for entry in run.iterdir() if entry.name.startswith(".")]

    delta = read_delta(run)
    assert delta.path == run / "lora" and delta.manifest.digest == delta.digest and delta.manifest.step == 1
    assert len(delta.tensors) == 2 * 7 * 2
    for name in delta.tensors:
        expected = values_of(name, wholes[name], np.dtype(np.float32))
        assert delta.tensors[name].tobytes() == expected.tobytes(), name

    state = find_state(run / "state").state
    assert state.step == 1 and state.notes["micro_batches"] == 1 and set(state.shapes) == set(wholes)
    assert {"adam_step", "adam_m.layers.1.mlp.down.mindpet_delta_lora_a", "loss_scale"} <= set(wholes)
    for name, (shape, dtype) in state.shapes.items():
        assert list(shape) == wholes[name]
        assert state.read(name).tobytes() == values_of(name, shape, np.dtype(dtype)).tobytes(), name
    # A replacement of what is there: the same rank goes over its files again.
    assert petrun(f"merge --base {job.folder / 'base'} --delta {run} --out {job.folder / 'merged'}").code == 0
    job.each("resume", [job.world - 1])


def test_what_the_ranks_save_is_what_the_run_has(ascend, tmp_path, petrun):
    check(Job(ascend, tmp_path, 1, 2, 0), 1, 2, 0, petrun)


@pytest.mark.all_only
@pytest.mark.parametrize(("dp", "tp", "zero"), [(2, 4, 0), (4, 2, 1), (2, 2, 3)])
def test_other_layouts(ascend, tmp_path, petrun, dp, tp, zero):
    check(Job(ascend, tmp_path, dp, tp, zero), dp, tp, zero, petrun)
