"""Sixteen clients of a server at once, each with another prompt, delta, length and way to draw: each gets what it gets alone."""

import http.client
import json
import threading

import mindspore as ms
import pytest

from petrun.graph.compilations import compilations
from petrun.inference.generation.session import Session
from petrun.inference.generation.session_engine import SessionEngine
from petrun.serve.address import bind
from petrun.serve.app import Service, make_app
from petrun.serve.openai import Limits
from petrun.serve.request_queue import RequestQueue, process_requests
from petrun.serve.server import HttpServer
from tests.deltas import make_delta
from tests.tiny import write_base

ROWS = 4


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A llama with deltas a (LoRA) and b (IA3)."""
    folder = tmp_path_factory.mktemp("engine")
    base = write_base(folder / "llama", "llama")
    make_delta(folder / "a.ckpt", base, "lora", rank=2, size=0.5)
    make_delta(folder / "b.ckpt", base, "ia3", size=0.5)
    session = Session.open(str(base), [str(folder / "a.ckpt"), str(folder / "b.ckpt")], batch_size=ROWS)
    ms.set_context(mode=ms.GRAPH_MODE)
    made = SessionEngine(session, "llama", ROWS, 48)
    made.warm_up()
    return made


def body(i):
    """Request i: three models, greedy and drawn, every third as a stream."""
    return {
        "model": ("a", "b", "llama")[i % 3],
        "prompt": "film " * (i % 5 + 1),
        "max_tokens": 3 + 2 * (i % 6),
        "temperature": 0 if i % 2 else 1.3,
        "seed": i,
        "stream": i % 3 == 0,
        "stream_options": {"include_usage": True} if i % 3 == 0 else None,
    }


def ask(port, i, **more):
    """(text, reason, counts) of request i."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/completions", json.dumps({**body(i), **more}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    raw = response.read().decode()
    connection.close()
    assert response.status == 200, raw
    if i % 3:
        found = json.loads(raw)
        return found["choices"][0]["text"], found["choices"][0]["finish_reason"], found["usage"]
    events = [json.loads(each.removeprefix("data: ")) for each in raw.split("\n\n")[:-2]]
    choices = [event["choices"][0] for event in events if event["choices"]]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"], events[-1]["usage"]


def middle(text):
    """A character that a stop text may be, not the first."""
    return next(character for character in text[1:] if character.isascii() and character.isprintable())


def test_sixteen_clients(graph_mode, engine):
    queue, end, reports = RequestQueue(32), threading.Event(), []
    place = bind("127.0.0.1", 0)
    server = HttpServer(
        make_app(Service(engine, queue, Limits(), None, True)), place, grace_seconds=20.0, most_connections=50
    )
    server.start()
    port = place.getsockname()[1]
    together, apart, cut = {}, {}, []

    def clients():
        """First all at once, then one by one."""
        try:
            threads = [threading.Thread(target=lambda i=i: together.update({i: ask(port, i)})) for i in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for i in range(16):
                apart[i] = ask(port, i)
            cut.append(ask(port, 5, stop=[middle(apart[5][0])]))
        finally:
            end.set()

    watcher = threading.Thread(target=clients)
    with compilations() as count:
        watcher.start()
        # MindSpore computes in the main thread.
        process_requests(
            queue, engine, ROWS, stopping=end.is_set, closing=server.refuse, grace_seconds=5.0, report=reports.append
        )
    watcher.join(60)
    server.stop()
    assert count.graphs == 0 and not reports
    assert len(apart) == 16 and together == apart
    assert len({text for text, _, _ in apart.values()}) > 10
    assert {reason for _, reason, _ in apart.values()} == {"length"}
    assert cut[0][:2] == (apart[5][0].partition(middle(apart[5][0]))[0], "stop")
    for i, (_, _, counts) in apart.items():
        assert counts["prompt_tokens"] == len("<user><assistant>" + body(i)["prompt"])
        assert 0 < counts["completion_tokens"] <= body(i)["max_tokens"]
        assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]
    assert engine.batch.free == ROWS
