"""Delta and state as the ranks of a job write them, each its own slices: put together they are what all of them hold, bit for bit."""

import errno
import os
import shutil
import socket
import threading

import numpy as np
import pytest

from petrun.checkpoint.delta import MANIFEST_KEY, Manifest, read_delta, save_delta, save_delta_shards
from petrun.checkpoint.manifest import BaseIdentity, TaskInfo
from petrun.checkpoint.training_state import clear, find_state, save_state_shards, steps_of
from petrun.errors import DeltaError, OutputError, SetupError
from petrun.tensors import TensorLayout
from petrun.tensors.atomic import output_error
from petrun.tensors.sharded import rank_files as shards
from petrun.tensors.sharded.note import read_note
from petrun.tensors.sharded.strategy import read_strategy
from tests.shards import dp2_tp2_pp2, dp2_tp4, dp8_optimizer, shard_of_rank
from tests.tensors.sharded.ranks_together import Ranks

RNG = np.random.default_rng(3)
DELTA = {
    f"layers.{i}.attn.q.mindpet_delta_lora_{part}": RNG.standard_normal(shape).astype(np.float32)
    for i in range(2)
    for part, shape in (("a", (4, 16)), ("b", (16, 4)))
}
STATE = {
    **DELTA,
    **{f"adam_m.{name}": RNG.standard_normal(values.shape).astype(np.float32) for name, values in DELTA.items()},
    "adam_step": np.array(3, np.int32),
}
FROZEN = {"embed.weight": np.ones((8, 16), np.float32)}
CUTS = {
    "dp2_tp4": dp2_tp4,
    "zero": dp8_optimizer,
    "pp2": lambda arrays: dp2_tp2_pp2(arrays, lambda name: ".1." in name, both=("adam_step",)),
}
MANIFEST = Manifest(
    algo="lora",
    config={"rank": 4},
    family="llama",
    model_type="llama",
    hf_config={},
    base=BaseIdentity(digest="d", name="b", fresh=()),
    task=TaskInfo(name="lm", labels=(), num_labels=None, seq_len=8, loss_on="all", columns={}, separator=None),
    seed=0,
    step=3,
    epoch=1.0,
    metrics={},
    versions={},
)


def ranks_of(cut):
    return Ranks(CUTS[cut]({**STATE, **FROZEN}))


def shards_of(arrays, ranks, rank):
    """ShardSpec by a rule of the tests' own."""
    found = {name: shard_of_rank(values, rank, name, ranks.stages) for name, values in arrays.items()}
    return {name: shard for name, shard in found.items() if shard is not None}


def save(ranks, run, arrays=DELTA, change=lambda rank, shards: shards):
    def one(rank):
        shards = change(rank, shards_of(arrays, ranks, rank))
        save_delta_shards(run / "lora", "ckpt", shards, DELTA, MANIFEST, ranks.spec(rank))

    return ranks.each(one)


def save_states(ranks, folder, *steps, keep=2):
    for step in steps:
        arrays = {**STATE, "adam_step": np.array(step, np.int32)}

        def one(rank, step=step, arrays=arrays):
            shards = shards_of(arrays, ranks, rank)
            save_state_shards(folder, step, shards, {"algo": "lora"}, {"step": step}, keep, ranks.spec(rank))

        assert not ranks.each(one)


def same(found, arrays):
    assert {name: found[name].tobytes() for name in found} == {name: a.tobytes() for name, a in arrays.items()}


@pytest.mark.parametrize("cut", CUTS)
def test_the_delta_of_all_ranks_is_that_of_one(tmp_path, cut):
    ranks = ranks_of(cut)
    assert not save(ranks, tmp_path, {name: 2 * values for name, values in DELTA.items()})
    assert not save(ranks, tmp_path), "a later one takes its place"
    whole = save_delta(tmp_path / "whole.ckpt", DELTA, MANIFEST)
    (tmp_path / "whole.ckpt").rename(tmp_path.parent / f"{tmp_path.name}-whole.ckpt")
    for path, strategy in ((tmp_path, None), (tmp_path / "lora", None), (tmp_path, tmp_path / "lora" / "strategy")):
        delta = read_delta(path, strategy)
        same(delta.tensors, DELTA)
        assert delta.manifest == whole and delta.digest == whole.digest
    strategy = read_strategy(tmp_path / "lora" / "strategy")
    assert set(strategy.names) == {*STATE, *FROZEN} and strategy.devices == 8
    assert strategy.stages == tuple(ranks.stages), "as it was compiled, frozen parameters as well"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lora"]
    assert sorted(entry.name for entry in (tmp_path / "lora").iterdir()) == [
        "petrun_shards.json", *(f"rank_{rank}" for rank in range(8)), "strategy"
    ]  # fmt: skip
    assert set(read_note(tmp_path / "lora").metadata) == {MANIFEST_KEY}


@pytest.mark.parametrize("cut", CUTS)
def test_a_state_of_all_ranks(tmp_path, cut):
    ranks, folder = ranks_of(cut), tmp_path / "state"
    save_states(ranks, folder, 1, 2, 3)
    assert steps_of(folder) == [3, 2], "the oldest is dropped"
    state = find_state(folder).state
    assert state.step == 3 and state.identity == {"algo": "lora"} and state.notes == {"step": 3}
    same({name: state.read(name) for name in state.shapes}, STATE)
    assert state.shapes["adam_step"] == ((), "int32")

    (folder / "step-00000003" / "rank_5" / "state.safetensors").write_bytes(b"cut off")
    found = find_state(folder)
    assert found.state.step == 2 and "rank_5/state.safetensors" in found.torn[0]
    (folder / "step-00000003" / "petrun_shards.json").unlink()
    found = find_state(folder)
    assert found.state.step == 2 and "was not finished" in found.torn[0]
    shutil.move(folder / "step-00000002" / "rank_0", tmp_path / "aside")
    shutil.move(folder / "step-00000002" / "rank_1", folder / "step-00000002" / "rank_0")
    shutil.move(tmp_path / "aside", folder / "step-00000002" / "rank_1")
    assert find_state(folder).state is None or cut == "pp2"


def test_what_an_attempt_has_left(tmp_path):
    """ShardSpec off while it saved, with more ranks and stages than this one."""
    left = tmp_path / ".lora.part"
    (left / "rank_9").mkdir(parents=True)
    (left / "rank_9.json").write_text("{}")
    (left / "strategy").mkdir()
    (left / "strategy" / "stage_7.ckpt").write_bytes(b"x")
    assert not save(ranks_of("dp2_tp4"), tmp_path)
    same(read_delta(tmp_path).tensors, DELTA)
    (tmp_path / ".step-00000002.part").mkdir()
    clear(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["lora"]


class TestAFailure:
    def test_of_one_rank_ends_all_and_leaves_what_was_there(self, tmp_path):
        ranks = ranks_of("dp2_tp4")
        assert not save(ranks, tmp_path)

        def spoil(rank, shards):
            return {name: shard * np.float32(np.nan if rank == 3 else 2) for name, shard in shards.items()}

        errors = save(ranks, tmp_path, change=spoil)
        assert sorted(errors) == list(range(8)) and isinstance(errors[3], DeltaError)
        for rank in errors.keys() - {3}:
            first = errors[3].message.splitlines()[0]
            assert isinstance(errors[rank], SetupError) and errors[rank].message == f"rank 3 failed: {first}"
        same(read_delta(tmp_path).tensors, DELTA)

    def test_of_a_full_disk_is_named_on_every_host(self, tmp_path, monkeypatch):
        """Ranks 4 to 7 run on another host, whose disk takes no more."""
        real, ranks = shards.write_ckpt, ranks_of("dp2_tp4")
        here = threading.local()

        def write(path, entries):
            here.name = f"host-{int(path.parent.name[5:]) // 4}"
            if here.name == "host-1":
                raise output_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            return real(path, entries)

        monkeypatch.setattr(shards, "write_ckpt", write)
        monkeypatch.setattr(socket, "gethostname", lambda: here.name)
        errors = save(ranks, tmp_path)
        assert sorted(errors) == list(range(8))
        assert ranks.meeting.sums == 3, "a look at the values, a vote, and who it was"
        assert all(isinstance(errors[rank], OutputError) for rank in range(4, 8))
        for rank in range(4):
            assert errors[rank].message == f"rank 4 on host-1 failed: {errors[4].message.splitlines()[0]}"
            assert "No space left" in errors[rank].message and "rank_4" in errors[rank].message
            assert "Failed as well: ranks 5, 6, 7." in errors[rank].hint
        monkeypatch.setattr(shards, "write_ckpt", real)
        assert not save(ranks, tmp_path) and ranks.meeting.sums == 6, "where all is well, nothing but votes"

    def test_of_ranks_that_have_parted(self, tmp_path):
        """Replicas must be alike: data-parallel ranks of which one has missed a sum are found out when they save."""

        def part(rank, shards):
            return {name: shard + np.float32(rank == 2) for name, shard in shards.items()}

        errors = save(ranks_of("dp2_tp4"), tmp_path, change=part)
        assert "must hold the same shard" in errors[0].message and len(errors) == 8
        assert not (tmp_path / "lora").exists()

    def test_of_a_disk_that_is_not_shared(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shards, "PATIENCE_SECONDS", 0.3)
        ranks = ranks_of("dp2_tp4")

        def one(rank):
            place = tmp_path / f"host-{rank // 4}"
            save_delta_shards(place / "lora", "ckpt", shards_of(DELTA, ranks, rank), DELTA, MANIFEST, ranks.spec(rank))

        errors = ranks.each(one)
        assert isinstance(errors[0], OutputError) and "rank 4" in errors[0].message and "share" in errors[0].hint
        assert len(errors) == 8

    def test_of_a_strategy_that_says_nothing_of_a_tensor(self, tmp_path):
        ranks = Ranks([{name: TensorLayout.replicated(8, values.ndim) for name, values in FROZEN.items()}])
        place = tmp_path / "lora"
        errors = ranks.each(lambda rank: save_delta_shards(place, "ckpt", DELTA, DELTA, MANIFEST, ranks.spec(rank)))
        assert "says nothing of" in errors[0].message and len(errors) == 8
