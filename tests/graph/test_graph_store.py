"""Compiled graphs on disk: whole or not there, and no more than fit."""

import json
import multiprocessing
import os

import pytest

from petrun.errors import OutputError
from petrun.graph.graph_store import GraphStore


@pytest.fixture
def store(tmp_path):
    store = GraphStore(tmp_path / "graphs")
    store.folder.mkdir()
    return store


def test_a_graph_is_read_as_it_was_written(store):
    store.write("a", b"graph\nof\0bytes", ["x.weight", "step"])
    found = store.read("a")
    assert found.content == b"graph\nof\0bytes" and found.parameters == ("x.weight", "step")


def test_none_where_there_is_none(store, tmp_path):
    assert store.read("a") is None
    assert GraphStore(tmp_path / "nowhere").read("a") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 3],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content + b"more",
        lambda content: b"\xff" + content,
        lambda content: b"[]\n" + content.partition(b"\n")[2],
        lambda content: content.replace(b'"parameters": ["x"]', b'"parameters": [3, 4]'),
    ],
)
def test_a_damaged_file_is_no_graph_and_goes(store, damage):
    store.write("a", b"graph" * 100, ["x"])
    path = store.path("a")
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("a") is None
    assert not path.exists()


def test_another_keys_file_is_no_graph(store):
    store.write("a", b"graph", ["x"])
    os.rename(store.path("a"), store.path("b"))
    assert store.read("b") is None


def test_a_damaged_file_is_replaced(store):
    store.path("a").write_bytes(b"{}\n")
    store.write("a", b"graph", [])
    assert store.read("a").content == b"graph"


def test_the_graph_that_was_not_read_for_longest_goes(tmp_path):
    store = GraphStore(tmp_path, limit_bytes=3000)
    for second, key in enumerate("abc"):
        store.write(key, b"x" * 800, [])
        os.utime(store.path(key), (second, second))
    # Read now: `b` is the oldest.
    assert store.read("a")
    store.write("d", b"x" * 800, [])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_graph_over_the_limit_is_not_kept(tmp_path):
    store = GraphStore(tmp_path, limit_bytes=100)
    store.write("a", b"x" * 101, [])
    assert store.read("a") is None


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        GraphStore(tmp_path / "file").write("a", b"graph", [])


def _write_often(folder, byte):
    for _ in range(30):
        GraphStore(folder).write("a", byte * 100_000, [])


def test_two_processes_write_and_a_third_reads_whole_graphs(store):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(store.folder, byte)) for byte in (b"x", b"y")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = store.read("a")
        if found is not None:
            assert found.content in (b"x" * 100_000, b"y" * 100_000)
            seen.add(found.content[:1])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.read("a") and seen
    assert [path.name for path in store.folder.iterdir()] == ["a.graph"]


def test_what_a_killed_process_left_goes_after_a_day(store):
    (store.folder / ".compiling-old").mkdir()
    (store.folder / ".compiling-new").mkdir()
    (store.folder / ".a.graph.0.tmp").write_bytes(b"half")
    store.write("a", b"graph", [])
    for name in (".compiling-old", ".a.graph.0.tmp", "a.graph"):
        os.utime(store.folder / name, (0, 0))
    store.clean()
    assert sorted(path.name for path in store.folder.iterdir()) == [".compiling-new", "a.graph"]


def test_the_header_says_what_the_file_is(store):
    store.write("a", b"graph", ["x"])
    header = json.loads(store.path("a").read_bytes().partition(b"\n")[0])
    assert header["key"] == "a" and header["bytes"] == 5 and header["parameters"] == ["x"]
