"""Files from elsewhere, changed at random: each is read or refused with a PetrunError, and nothing else happens. `--all`: thousands."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from petrun.algebra.comparison import norms
from petrun.algebra.sums import Term, added
from petrun.checkpoint.delta import BaseIdentity, Manifest, TaskInfo, read_delta, save_delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.manifest import parse_manifest
from petrun.checkpoint.merge import MergeBase, merge_to_file
from petrun.config.load import load_run_config
from petrun.delta.lora import LoraConfig
from petrun.errors import PetrunError
from petrun.tensors import open_tensors
from tests.checkpoint.toy_family import lora_arrays
from tests.data.loading import read_examples

PATHS = ("layers.0.attn.q", "layers.1.mlp.up")
FEW = dict(
    deadline=5000,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
COUNTS = [pytest.param(60, id="some"), pytest.param(3000, id="thousands", marks=pytest.mark.all_only)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def mutations(length):
    """Changes of a file of so many bytes: bytes set, cut off, put in, or taken out."""
    place = st.integers(0, length - 1)
    return st.lists(
        st.tuples(st.just("set"), place, st.integers(0, 255))
        | st.tuples(st.just("cut"), place, st.just(0))
        | st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=12))
        | st.tuples(st.just("take"), place, st.integers(1, 40)),
        min_size=1,
        max_size=4,
    )


def changed(content, steps):
    data = bytearray(content)
    for kind, place, what in steps:
        if kind == "set" and place < len(data):
            data[place] = what
        elif kind == "cut":
            del data[place:]
        elif kind == "put":
            data[place:place] = what
        elif kind == "take":
            del data[place : place + what]
    return bytes(data)


def use(path):
    """Everything that a command does with a delta before the net: read, check settings, add, compare."""
    delta = read_delta(path)
    if delta.manifest is not None:
        _, config = method_of(delta.algo, delta.config, delta.path)
        delta = replace(delta, config=config.model_dump(mode="json"))
        made = added([Term(delta, 0.5), Term(delta, 0.5)])
        assert all(np.isfinite(made.tensors[name]).all() for name in made.tensors)
        norms(delta)
    return delta


def holds(attempt):
    """It works, or it is refused with words; warnings count as faults."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            attempt()
        except PetrunError as error:
            assert error.message


def saved(path):
    config = LoraConfig(rank=2, alpha=4.0, target=PATHS).model_dump(mode="json")
    task = TaskInfo(name="lm", seq_len=16)
    manifest = Manifest(algo="lora", config=config, family="toy", base=BaseIdentity(digest="d"), task=task)
    save_delta(path, lora_arrays(PATHS), manifest)
    return path.read_bytes()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_delta_files(tmp_path, kind, count):
    path = tmp_path / f"a.{kind}"
    whole = saved(path)
    digest = read_delta(path).digest
    # A manifest under another name would leave a delta that passes for another tool's.
    path.write_bytes(whole.replace(b"petrun_manifest", b"petrun_manifesu"))
    with pytest.raises(PetrunError, match="holds its manifest under the name 'petrun_manifesu'"):
        read_delta(path)

    @settings(max_examples=count, **FEW)
    @given(mutations(len(whole)))
    def check(steps):
        path.write_bytes(changed(whole, steps))

        def attempt():
            # What is read although it was changed has the tensors that were saved.
            assert use(path).digest == digest

        holds(attempt)

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_manifests(tmp_path, count):
    """Values of any type at any key: as JSON text, and in a file whose tensors are right."""
    path = tmp_path / "a.safetensors"
    saved(path)
    good = read_delta(path).manifest
    plain = json.loads(good.to_json())
    keys = sorted(plain) + [f"config.{key}" for key in plain["config"]] + ["base.digest", "task.labels", "other"]

    @settings(max_examples=count, **FEW)
    @given(st.dictionaries(st.sampled_from(keys), JSON, min_size=1, max_size=3), mutations(200))
    def check(values, steps):
        raw = json.loads(good.to_json())
        for key, value in values.items():
            outer, _, inner = key.partition(".")
            if inner and isinstance(raw[outer], dict):
                raw[outer][inner] = value
            else:
                raw[key] = value
        text = json.dumps(raw)
        holds(lambda: parse_manifest("m", text))
        holds(lambda: parse_manifest("m", changed(text.encode(), steps).decode("utf-8", "replace")))
        rewritten(path, tmp_path / "b.safetensors", text)
        holds(lambda: use(tmp_path / "b.safetensors"))

    check()


def rewritten(source, target, text):
    """The same tensors under another manifest."""
    content = source.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["petrun_manifest"] = text
    encoded = json.dumps(header).encode()
    target.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])


RUN = """\
algo: lora
delta:
  rank: 4
  target: [q, v]
data:
  path: rows.jsonl
  seq_len: 32
train:
  steps: 10
  seed: 3
optim:
  lr: 1e-3
"""


@pytest.mark.parametrize("count", COUNTS)
def test_run_files(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    bits = st.sampled_from(
        [
            "&a [*a]",
            "!!python/object/apply:os.system [ls]",
            "<<: ",
            "? ",
            "- - -",
            "1e999",
            "\t",
            "\x00",
            "{",
            ": :",
            "~",
        ]
    )

    @settings(max_examples=count, **FEW)
    @given(mutations(len(RUN)), bits, st.integers(0, len(RUN)))
    def check(steps, bit, place):
        for content in (changed(RUN.encode(), steps), (RUN[:place] + bit + RUN[place:]).encode()):
            path.write_bytes(content)
            holds(lambda: load_run_config(str(path), {}, []))

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_rows(tmp_path, count):
    """JSONL rows for token data: text needs a tokenizer, whole rows of other shapes do not."""
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"input_ids": [1, 2, 3], "labels": [1, 2, 3]})
    whole = "\n".join([row] * 3).encode()

    @settings(max_examples=count, **FEW)
    @given(
        mutations(len(whole)), st.dictionaries(st.sampled_from(["input_ids", "labels", "text", "x"]), JSON, max_size=3)
    )
    def check(steps, extra):
        for content in (changed(whole, steps), f"{row}\n{json.dumps(extra)}\n".encode()):
            path.write_bytes(content)
            holds(
                lambda: read_examples(
                    [str(path)], task="lm", tokenizer=None, seq_len=16, family_tasks=("lm", "instruct")
                )
            )

    check()


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "a/../../out", "~/out"])
def test_names_are_never_paths(tmp_path, name):
    """A tensor's name, and a shard's in an index: the one fits nothing, the other must be a plain file name."""
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    saved(place / "base.safetensors")
    tensors = lora_arrays(PATHS[:1])
    arrays = {f"{name}.{leaf.rpartition('.')[2]}": values for leaf, values in tensors.items()}
    save_delta(place / "d.ckpt", arrays, Manifest(algo="lora", base=BaseIdentity(digest="d")))
    delta = read_delta(place / "d.ckpt")
    reader = open_tensors(place / "base.safetensors")
    with pytest.raises(PetrunError, match="does not fit"):
        merge_to_file(MergeBase(reader=reader, names={}), delta, lambda n, v, rows: v, place / "m.ckpt")
    folder = place / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": f"{name}.safetensors"}}))
    with pytest.raises(PetrunError, match="which is not a file name"):
        open_tensors(folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "base.safetensors", "d.ckpt", "deep", "er", "model", "model.safetensors.index.json",
    ]  # fmt: skip
