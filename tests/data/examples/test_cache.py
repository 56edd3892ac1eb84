"""Tokenised rows on disk, keyed by content."""

import json
import os
import zipfile

import numpy as np
import pytest

from petrun.data import load
from petrun.data.examples import cache
from petrun.data.examples.mapped_npz import write_npz
from tests.data.loading import read_examples

ROWS = [{"prompt": "the dog", "completion": " yes"}, {"prompt": "Why?", "completion": "Because it is. ☃"}]


@pytest.fixture
def built(monkeypatch):
    """Counts how often rows were really tokenised."""
    calls = []
    original = load.build_examples

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(load, "build_examples", counted)
    return calls


def read(path, tokenizer, folder, **given):
    return read_examples(path, **{"task": None, "tokenizer": tokenizer, "seq_len": 64, "cache_dir": folder, **given})


def same(a, b):
    assert (a.task, a.kind, a.labels, a.num_labels, a.references, a.stats, a.template, a.digest, a.columns, a.formats) == (
        b.task, b.kind, b.labels, b.num_labels, b.references, b.stats, b.template, b.digest, b.columns, b.formats,
    )  # fmt: skip
    assert a.flat.keys() == b.flat.keys() and a.per_row.keys() == b.per_row.keys()
    for name in a.flat:
        np.testing.assert_array_equal(a.flat[name], b.flat[name])
        assert a.flat[name].dtype == b.flat[name].dtype
    for name in a.per_row:
        np.testing.assert_array_equal(a.per_row[name], b.per_row[name])
    np.testing.assert_array_equal(a.offsets, b.offsets)


def test_a_second_reading_comes_from_the_cache(write, bpe, tmp_path, built):
    path = write("a.jsonl", ROWS)
    first = read(path, bpe, tmp_path / "cache")
    second = read(path, bpe, tmp_path / "cache")
    assert len(built) == 1
    same(first, second)
    same(first, read(path, bpe, None))
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npz"]


def test_the_key_is_the_content_not_the_path(write, bpe, tmp_path, built):
    read(write("a.jsonl", ROWS), bpe, tmp_path / "cache")
    moved = read(write("b.jsonl", ROWS), bpe, tmp_path / "cache")
    assert len(built) == 1
    assert moved.where(0).endswith("b.jsonl, line 1")


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 16},
        {"loss_on": "all"},
        {"template": "chatml"},
        {"max_rows": 1},
        {"for_generation": True},
        {"task": "instruct"},
        {"need_target": False},
        {"vocab_size": 999},
    ],
)
def test_every_setting_is_in_the_key(write, bpe, tmp_path, built, change):
    path = write("a.jsonl", ROWS)
    read(path, bpe, tmp_path / "cache")
    same(read(path, bpe, tmp_path / "cache", **change), read(path, bpe, None, **change))
    assert len(built) == 3


def test_other_content_tokenizer_or_template_file(write, bpe, chat, tmp_path, built):
    path = write("a.jsonl", ROWS)
    template = tmp_path / "t.jinja"
    template.write_text("{{ prompt }}!")
    read(path, bpe, tmp_path / "cache", template=str(template))
    template.write_text("{{ prompt }}?")
    changed = read(path, bpe, tmp_path / "cache", template=str(template))
    assert bpe.decode(changed[0].input_ids) == "the dog? yes"
    read(path, chat, tmp_path / "cache", template=str(template))
    write("a.jsonl", ROWS[:1])
    assert len(read(path, bpe, tmp_path / "cache", template=str(template))) == 1
    assert len(built) == 4


@pytest.mark.parametrize("damage", ["truncate", "garbage", "flip", "empty", "foreign", "no array"])
def test_a_damaged_entry_is_made_again(write, bpe, tmp_path, built, damage):
    path, folder = write("a.jsonl", ROWS), tmp_path / "cache"
    first = read(path, bpe, folder)
    [entry] = folder.iterdir()
    raw = bytearray(entry.read_bytes())
    if damage == "truncate":
        raw = raw[: len(raw) // 2]
    elif damage == "garbage":
        raw = bytearray(b"garbage")
    elif damage == "flip":
        raw[raw.index(b"NUMPY") + 140] ^= 0xFF
    elif damage == "empty":
        raw = bytearray()
    elif damage == "no array":
        with zipfile.ZipFile(entry, "w") as archive:
            archive.writestr("meta", "{}")
        raw = bytearray(entry.read_bytes())
    else:
        np.savez(entry, other=np.zeros(3))
        raw = bytearray(entry.read_bytes())
    entry.write_bytes(raw)
    same(read(path, bpe, folder), first)
    assert len(built) == 2
    same(read(path, bpe, folder), first)
    assert len(built) == 2


def test_an_entry_of_an_earlier_layout_is_made_again(write, bpe, tmp_path, built):
    """It is intact and has the key, and what it lacks would be missing in the rows."""
    path, folder = write("a.jsonl", ROWS), tmp_path / "cache"
    first = read(path, bpe, folder)
    [entry] = folder.iterdir()
    with np.load(entry) as stored:
        arrays = {name: array for name, array in stored.items() if not name.startswith("texts/")}
    meta = json.loads(arrays.pop("meta").tobytes())
    del meta["layout"]
    with open(entry, "wb") as file:
        write_npz(file, {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays})
    same(read(path, bpe, folder), first)
    assert len(built) == 2


def test_the_layout_has_a_number_of_its_own(write, bpe, tmp_path):
    """Whoever changes what an entry holds raises the number, and this test with it."""
    folder = tmp_path / "cache"
    read(write("a.jsonl", ROWS), bpe, folder)
    [entry] = folder.iterdir()
    with np.load(entry) as stored:
        names = {name.partition("/")[0] for name in stored}
        meta = json.loads(stored["meta"].tobytes())
    assert meta["layout"] == 2
    assert names == {"meta", "offsets", "flat", "per_row", "texts"}
    assert sorted(meta) == [
        "columns", "digest", "files", "formats", "kind", "labels", "layout", "notes", "num_labels", "other_references", "skipped", "stats",
        "task", "template", "unknown", "unread", "unread_keys",
    ]  # fmt: skip


def test_a_cache_that_cannot_be_written_costs_nothing(write, bpe, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    assert len(read(write("a.jsonl", ROWS), bpe, tmp_path / "file" / "cache")) == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert len(read(write("a.jsonl", ROWS), bpe, tmp_path / "cache")) == 2
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_folder_stays_small(write, bpe, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    read(write("a.jsonl", ROWS), bpe, folder)
    [old] = folder.iterdir()
    os.utime(old, (1, 1))
    monkeypatch.setattr(cache, "_LARGEST_BYTES", old.stat().st_size + 1)
    read(write("b.jsonl", ROWS[:1]), bpe, folder)
    assert old not in folder.iterdir()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "settings, key",
    [
        (
            {"task": "lm", "seq_len": 8, "vocab_size": 99},
            "879bf0646ff595e4c6cdd568f2f87d8834e5d9e0a2a367188a63b77447cc4608",
        ),
        (
            {
                "task": None,
                "seq_len": 2,
                "vocab_size": 99,
                "family_tasks": ("lm", "classify"),
                "columns": {"label": "labels"},
                "format": "jsonl",
                "labels": ("a", "b"),
                "num_labels": 2,
                "loss_on": "all",
                "max_rows": 1,
                "eos_ids": (3,),
                "on_bad_row": "skip",
            },
            "4b053a4e0b53afe5114508a15188c9fe3b575ff336b3b197afb58f43ceecdd14",
        ),
    ],
)
def test_the_key_stays_what_it_was(write, settings, key):
    """The entries of users are found by it: only a change of what it stands for may change it."""
    path = write("a.jsonl", '{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}\n{"input_ids": [4, 5]}\n')
    assert read_examples(path, tokenizer=None, **settings).digest == key
