"""Runs whose ranks hold slices: the files of all ranks together hold the full tensors."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta, save_delta_shards
from petrun.checkpoint.training_state import find_state
from petrun.config.load import load_run_config
from petrun.parallel.context import setup
from petrun.parallel.layout import Layout
from petrun.rehearsal import rank as rehearsal_rank
from petrun.rehearsal.shapes import shapes_of_data
from petrun.tensors.sharded.strategy import read_strategy
from petrun.training.setup.rank_batches import first_batch_inputs, rank_batches
from petrun.training.setup.resolve import resolve_with_layout
from petrun.training.setup.training_setup import build_training
from tests.conftest import ROOT
from tests.parallel.one_trained import values_of
from tests.shards import dp2_tp4, shard_of_rank
from tests.tensors.sharded.ranks_together import Ranks
from tests.tiny import CONFIGS, ORDERS, REVIEWS, write_base, write_rows

RECIPE = """
model: {{base: {base}}}
data: {{path: [{data}], eval_path: [{rated}], seq_len: 16}}
parallel: {{dp: {dp}, tp: {tp}, zero: {zero}, pp: {pp}}}
train: {{batch_size: 2, steps: 3}}
out: {{dir: {out}}}
algo: lora
delta: {{rank: 4, target: [all-linear]}}
"""


class Job:
    """Ranks of a job on the front end, one after the other, the first one last."""

    def __init__(self, ascend, folder, dp, tp, zero, pp=1):
        self.ascend, self.folder, self.world, self.pp = ascend, folder, dp * tp * pp, pp
        # What is tied is sent between stages: zero does not cut it, tp does.
        more = {"tie_word_embeddings": True} if pp > 1 and dp * tp > 1 else {}
        base = write_base(
            folder / "base", "llama", num_attention_heads=4, num_key_value_heads=4, hidden_size=32, **more
        )
        data = write_rows(folder / "rows.jsonl", ORDERS)
        (folder / "run").mkdir()
        self.recipe = folder / "recipe.yaml"
        rated = data if pp == 1 else ""
        self.places = {"base": base, "data": data, "rated": rated, "out": folder / "run"}
        self.set_layout(dp, tp, zero, pp)

    def set_layout(self, dp, tp, zero, pp=1):
        self.recipe.write_text(RECIPE.format(**self.places, dp=dp, tp=tp, zero=zero, pp=pp))

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


def check(job, petrun):
    found = job.each("save")
    run = job.folder / "run"
    wholes = found[0]["wholes"]
    strategy = read_strategy(run / "lora" / "strategy")
    assert len(strategy.stages) == job.pp and strategy.devices == job.world
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
    assert petrun(f"merge --base {job.folder / 'base'} --delta {run} --out {job.folder / 'merged'}").code == 0
    job.each("resume", [job.world - 1])


@pytest.mark.all_only
@pytest.mark.parametrize(
    ("dp", "tp", "zero", "pp"),
    [(1, 2, 0, 1), (2, 4, 0, 1), (2, 2, 1, 1), (2, 2, 3, 1), (1, 1, 0, 2), (1, 2, 0, 2), (2, 1, 1, 2)],
)
def test_what_the_ranks_save_is_what_the_run_has(ascend, tmp_path, petrun, dp, tp, zero, pp):
    """Slices as MindSpore cut them, of real values; a rank takes 10 to 20 s of a core."""
    job = Job(ascend, tmp_path, dp, tp, zero, pp)
    check(job, petrun)
    if (dp, zero, pp) == (2, 1, 1):
        # Another layout of as many ranks takes what this one saved.
        job.set_layout(1, 4, 0)
        job.each("resume", [3])


@pytest.mark.all_only
@pytest.mark.parametrize(
    ("family", "layout"), [("llama", "tp=2"), ("llama", "tp=2,sequence=true"), ("llama", "pp=2"), ("bert", "pp=2")]
)
def test_train_itself_as_each_rank(ascend, tmp_path, family, layout):
    """From the command line to the last file, but for the numbers: the plan, the step, evaluations, the best delta, the last."""
    base = write_base(tmp_path / "base", family)
    data = write_rows(tmp_path / "rows.jsonl", REVIEWS if family == "bert" else ORDERS)
    line = f"--base {base} --data {data} --steps 3 --batch-size 2 --seq-len 16 --out run --device ascend --parallel {layout}"
    line += " --on-nan skip --save-every 100 --set data.cache=false --set data.buckets=1"
    rated = layout.startswith("tp=2")
    line += f" --eval-data {data}" if rated else ""
    said = []
    # The first rank alone does not find what the other has saved, once there is something; then it is there.
    for rank in (0, 1, 0):
        environment = ascend(rank, 2, 1)
        environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
        command = [sys.executable, "-m", "tests.parallel.one_train", *line.split()]
        said.append(subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900))
    for text in (
        *layout.split(","),
        "2 ranks, each with its shards",
        *(["before: loss", "step 2: loss"] if rated else []),
    ):
        assert text in said[0].stdout, said[0].stdout + said[0].stderr
    assert "what rank 1 has written is not to be seen from rank 0" in said[0].stderr
    # A delta that did not move is an error, when all is saved.
    for done in said[1:]:
        assert "learned" in done.stderr and done.returncode == 1, done.stdout + done.stderr
    assert "it had saved no state yet: it starts over" in said[2].stdout
    run = tmp_path / "run"
    assert not list(run.glob(".*")), "what grew has its name"
    assert json.loads((run / "results.json").read_text())["steps"] == 3
    for name in ("lora", "best") if rated else ("lora",):
        assert {rank.name for rank in (run / name).glob("rank_*")} == {"rank_0", "rank_1"}
    assert read_delta(run).manifest.algo == "lora"
    assert not rated or read_delta(run / "best").manifest.step == 2


def test_a_run_whose_ranks_hold_slices_is_a_delta_like_any_other(place, petrun):
    """No flag says how it was cut."""
    delta = read_delta(place / "bert-lora")
    arrays = {name: np.asarray(delta.tensors[name]) for name in delta.tensors}
    ranks, run = Ranks(dp2_tp4(arrays)), place / "slices"
    run.mkdir()
    (run / "run.yaml").write_text("algo: lora\n")

    def save(rank):
        pieces = {name: shard_of_rank(values, rank, name, ranks.stages) for name, values in arrays.items()}
        save_delta_shards(run / "lora", "ckpt", pieces, arrays, delta.manifest, ranks.spec(rank))

    assert not ranks.each(save)
    for name, given in (
        ("whole", "bert-lora"),
        ("cut", "slices"),
        ("named", "slices/lora --delta-strategy slices/lora/strategy"),
    ):
        done = petrun(f"eval --data reviews.jsonl --batch-size 4 --base bert --out {name}.json --delta {given}")
        assert done.code == 0, done.err
    found = [json.loads((place / f"{name}.json").read_text()) for name in ("whole", "cut", "named")]
    assert found[0]["delta"] == found[1]["delta"] == found[2]["delta"] and found[0]["delta"] != found[0]["base"]
    for source in ("slices", "slices/lora"):
        done = petrun(f"reshard --from {source} --single --out {source.replace('/', '-')}.ckpt")
        assert done.code == 0, done.err
        joined = read_delta(place / f"{source.replace('/', '-')}.ckpt")
        assert joined.digest == delta.digest and joined.manifest == delta.manifest


def build_setup(folder, layout):
    recipe = Job(None, folder, layout.dp, layout.tp, 0).recipe
    return build_training(
        resolve_with_layout(load_run_config(recipe, {}, ()), None, setup("cpu"), layout), scored=False
    )


def test_every_rank_gets_the_full_batch(tmp_path):
    """Four rows in batches of 2 on each of 3 data-parallel ranks: one batch of 4, filled up to the 6 that divide."""
    layout = Layout(dp=3, tp=2)
    training = build_setup(tmp_path, layout)
    batches = [next(rank_batches(training, rank)) for rank in range(layout.world)]
    for batch in batches:
        assert {name: value.tobytes() for name, value in batch.items() if isinstance(value, np.ndarray)} == {
            name: value.tobytes() for name, value in batches[0].items() if isinstance(value, np.ndarray)
        }
        assert len(batch["targets"]) == 6 and batch["first"] == 0 and sorted(batch["rows"]) == [0, 1, 2, 3]
        assert np.all(batch["targets"][4:] == -100) and np.any(batch["targets"][3] != -100)
        assert batch["scored"] == np.count_nonzero(batch["targets"] != -100)
    # A rank of a job that is not cut reads its own.
    plain = replace(training, resolved=replace(training.resolved, layout=Layout(dp=3)))
    shares = [next(rank_batches(plain, rank)) for rank in range(3)]
    whole = np.concatenate([share["input_ids"] for share in shares])
    assert whole.tobytes() == batches[0]["input_ids"][:4].tobytes()


def test_a_rehearsal_compiles_the_step_that_is_trained(tmp_path):
    """Both build it by build_step; types and rows of what goes in are the same as well."""
    layout = Layout(dp=2, tp=2)
    training = build_setup(tmp_path, layout)
    shapes = shapes_of_data(training.resolved.settings, None, layout)
    rehearsed = rehearsal_rank.step_inputs(training.assembled.loaded, shapes, layout)
    trained = first_batch_inputs(training)
    assert trained[0] is True and len(trained) == 1 + len(rehearsed) > 4
    assert [(x.shape, x.dtype) for x in trained[1:]] == [(x.shape, x.dtype) for x in rehearsed]


def test_what_does_not_divide_is_refused_before_anything_loads(tmp_path, petrun, monkeypatch):
    monkeypatch.setattr("petrun.commands.launch.find_target", lambda device: "ascend")
    monkeypatch.setattr("petrun.cluster.launch_options.cards_here", lambda: 8)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    line = f"train --base {tmp_path / 'base'} --cards 8 --out {tmp_path / 'run'} --parallel "
    for text, said in (("tp=8", "does not divide 2 key/value heads"), ("dp=3,tp=2", "the job has 8 cards")):
        done = petrun(line + text)
        assert done.code == 2 and said in done.err and "These divide: --parallel dp=4,tp=2,pp=1" in done.err
    assert not (tmp_path / "run").exists()
