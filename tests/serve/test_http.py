"""The HTTP side on a real socket, with an engine that computes nothing: every request gets the right status, and the server lives on."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petrun.errors import ConfigError, DataError, PromptTooLong, SetupError
from petrun.serve import openai
from petrun.serve.address import bind, is_loopback
from petrun.serve.api_error import ApiError
from petrun.serve.app import Service, make_app
from petrun.serve.openai import AnswerEnd, Limits
from petrun.serve.request_queue import RequestQueue, StreamChunk, process_requests
from petrun.serve.server import HttpServer

HELLO = {"model": "echo", "messages": [{"role": "user", "content": "a b c"}]}


class Words:
    """Answers with the words of the last message, one a chunk. "fail" raises, each "wait" waits for a `go`, over 9 words are too long."""

    names = ("echo", "other")

    def __init__(self):
        self.go = threading.Semaphore(0)
        self.seen = []
        self.batches = []
        self.given_up = 0
        self.running = {}
        self.joined = False

    def text(self, request):
        return request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]

    def check(self, request):
        count = len(self.text(request).split())
        if count > 9:
            raise PromptTooLong("nine words at most")
        if "plain" in self.text(request):
            raise DataError("the column leaves no room for doubt")
        return count

    def join(self, request):
        self.seen.append(request)
        number = len(self.seen)
        self.running[number] = request, self.words(number, request)
        self.joined = True
        return number

    def leave(self, number):
        self.given_up += self.running.pop(number, None) is not None

    def step(self):
        if self.joined:
            self.batches.append([request.model for request, _ in self.running.values()])
            self.joined = False
        chunks = []
        for number, (_, words) in list(self.running.items()):
            chunks.append(next(words))
            if chunks[-1].end is not None:
                del self.running[number]
        return chunks

    def words(self, index, each):
        words = self.text(each).split()
        for number, word in enumerate(words):
            if word == "fail":
                raise RuntimeError("kernel launch failed\nmore")
            if word == "wait":
                assert self.go.acquire(timeout=30)
            last = number == len(words) - 1
            end = AnswerEnd(finish="stop", tokens=len(words), prompt_tokens=len(words)) if last else None
            text = word if last else word + " "
            # The text comes with the next token, as half a character does.
            shown = "" if word == "late" else text if number == 0 or words[number - 1] != "late" else "late " + text
            yield StreamChunk(index, shown, end, ((text, -0.5 * number),) if each.scored else ())


class Running:
    def __init__(self, engine, port, queue, reports):
        self.engine, self.port, self.queue, self.reports = engine, port, queue, reports

    def __call__(self, method, path, body=None, **headers):
        """(status, headers, the JSON object)."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        found = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return (
            found[0],
            found[1],
            json.loads(found[2]) if found[1].get("content-type") == "application/json" else found[2],
        )

    def chat(self, **changes):
        return self("POST", "/v1/chat/completions", {**HELLO, **changes})

    def error(self, status, body, path="/v1/chat/completions"):
        found, _, content = self("POST", path, body)
        assert found == status, content
        assert set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
        return content["error"]


def noted(place, found):
    place += found
    return found


@contextmanager
def serving(key=None, queue=3, batch=2, limits=None, grace=20.0):
    engine, requests, reports, end, taken = Words(), RequestQueue(queue), [], threading.Event(), []
    take = requests.take
    requests.take = lambda *how: noted(taken, take(*how))
    place = bind("127.0.0.1", 0)
    app = make_app(
        Service(engine, requests, limits or Limits(most_tokens=50, default_tokens=7, body_bytes=4096), key, key is None)
    )
    server = HttpServer(app, place, grace_seconds=grace, most_connections=50)
    server.start()
    how = {"stopping": end.is_set, "closing": server.refuse, "grace_seconds": grace, "report": reports.append}
    worker = threading.Thread(target=lambda: process_requests(requests, engine, batch, **how))
    worker.start()
    running = Running(engine, place.getsockname()[1], requests, reports)
    running.end, running.worker, running.taken = end, worker, taken
    try:
        yield running
    finally:
        end.set()
        engine.go.release(9)
        worker.join(30)
        server.stop()
        assert not worker.is_alive() and not server.alive


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def test_answers_models_and_health(server):
    status, _, found = server.chat()
    assert status == 200 and found["object"] == "chat.completion" and found["model"] == "echo"
    assert found["id"].startswith("chatcmpl-") and abs(found["created"] - time.time()) < 100
    message = {"role": "assistant", "content": "a b c", "refusal": None}
    assert found["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "message": message}]
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    status, _, found = server("POST", "/v1/completions", {"model": "other", "prompt": ["x y"], "max_tokens": 2})
    assert status == 200 and found["object"] == "text_completion" and found["choices"][0]["text"] == "x y"
    status, _, found = server("GET", "/v1/models")
    assert [each["id"] for each in found["data"]] == ["echo", "other"] and found["object"] == "list"
    assert server("GET", "/v1/models/other")[2]["id"] == "other"
    assert server("GET", "/v1/models/nobody")[0] == 404
    assert server("GET", "/health")[2] == {"status": "ok", "waiting": 0, "running": 0}


def test_settings_reach_the_engine(server):
    parts = [{"type": "text", "text": "p "}, {"type": "text", "text": "q"}]
    status, _, _ = server.chat(
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}], temperature=0, top_p=0.5, top_k=4,
        stop="END", seed=-1, max_completion_tokens=11, max_tokens=None, repetition_penalty=1.5, n=1, presence_penalty=0, tools=[],
        user="me", logprobs=False, response_format={"type": "text"}, stream=None, logit_bias={},
    )  # fmt: skip
    seen = server.engine.seen[-1]
    assert status == 200 and seen.prompt == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "p q"},
    )
    assert (seen.temperature, seen.top_p, seen.top_k, seen.repetition_penalty) == (0.0, 0.5, 4, 1.5)
    assert (seen.stop, seen.seed, seen.max_tokens) == (("END",), 2**63 - 1, 11)
    server.chat(stop=["a", "b"])
    first = server.engine.seen[-1]
    assert first.stop == ("a", "b") and (first.temperature, first.max_tokens) == (1.0, 7)
    server.chat()
    assert server.engine.seen[-1].seed != first.seed, "no seed: another answer each time"


def test_streams(server):
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    status, headers, raw = server("POST", "/v1/chat/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = raw.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(each.removeprefix("data: ")) for each in events[:-2]]
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"} and len(
        {each["id"] for each in chunks}
    ) == 1
    deltas = [each["choices"][0]["delta"] for each in chunks if each["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert [each["content"] for each in deltas[1:-1]] == ["a ", "b ", "c"]
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-1]["usage"]["total_tokens"] == 6 and chunks[-1]["choices"] == [] and chunks[0]["usage"] is None
    raw = server("POST", "/v1/completions", {"model": "echo", "prompt": "u v", "stream": True})[2].decode()
    chunks = [json.loads(each.removeprefix("data: ")) for each in raw.split("\n\n")[:-2]]
    assert "".join(each["choices"][0]["text"] for each in chunks) == "u v" and "usage" not in chunks[0]


def test_log_probabilities_of_the_chosen_tokens(server):
    body = {"model": "echo", "prompt": "u late w", "logprobs": 0}
    expected = {
        "tokens": ["u ", "late ", "w"],
        "token_logprobs": [0.0, -0.5, -1.0],
        "top_logprobs": None,
        "text_offset": [0, 2, 7],
    }
    choice = server("POST", "/v1/completions", body)[2]["choices"][0]
    assert choice["text"] == "u late w" and choice["logprobs"] == expected
    for nothing in (None, False):
        assert server("POST", "/v1/completions", {**body, "logprobs": nothing})[2]["choices"][0]["logprobs"] is None
    raw = server("POST", "/v1/completions", {**body, "stream": True})[2].decode()
    parts = [json.loads(each.removeprefix("data: "))["choices"][0]["logprobs"] for each in raw.split("\n\n")[:-2]]
    joined = {
        key: [value for part in parts for value in part[key]] for key in ("tokens", "token_logprobs", "text_offset")
    }
    assert {**joined, "top_logprobs": None} == expected


def test_tool_calls_reach_the_engine(server):
    calls = [{"id": "c1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}]
    messages = [
        {"role": "user", "content": "add", "name": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": calls,
            "refusal": None,
            "function_call": None,
            "annotations": [],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "two", "reasoning_content": "1 + 1", "tool_calls": []},
        {"role": "user", "content": "and now"},
    ]
    assert server.chat(messages=messages)[0] == 200
    assert server.engine.seen[-1].prompt == (
        {"role": "user", "content": "add"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "two", "reasoning_content": "1 + 1"},
        {"role": "user", "content": "and now"},
    )


WRONG = {
    "no JSON": (b"{", 400, None),
    "NaN": (b'{"model": "echo", "temperature": NaN}', 400, None),
    "not UTF-8": (b'{"model": "\xff"}', 400, None),
    "too deep": (b"[" * 4000, 400, None),
    "a huge number": (b'{"model": "echo", "seed": ' + b"9" * 4000 + b"}", 400, "seed"),
    "a list": ([], 400, None),
    "no model": ({"messages": HELLO["messages"]}, 400, "model"),
    "a model of no name": ({**HELLO, "model": 3}, 400, "model"),
    "an unknown model": ({**HELLO, "model": "nobody"}, 404, "model"),
    "no messages": ({"model": "echo"}, 400, "messages"),
    "empty messages": ({**HELLO, "messages": []}, 400, "messages"),
    "a message that is a text": ({**HELLO, "messages": ["hi"]}, 400, "messages[0]"),
    "an unknown role": ({**HELLO, "messages": [{"role": "evaluator", "content": "x"}]}, 400, "messages[0]"),
    "content that is a number": ({**HELLO, "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
    "an image": ({**HELLO, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
    "an unknown half of a character": (b'{"\\ud800": 1}', 400, "\\ud800"),
    "half a character": (b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "messages[0].content"),
    "too hot": ({**HELLO, "temperature": 2.1}, 400, "temperature"),
    "temperature as text": ({**HELLO, "temperature": "hot"}, 400, "temperature"),
    "a boolean as number": ({**HELLO, "top_p": True}, 400, "top_p"),
    "top_p 0": ({**HELLO, "top_p": 0}, 400, "top_p"),
    "no tokens": ({**HELLO, "max_tokens": 0}, 400, "max_tokens"),
    "too many tokens": ({**HELLO, "max_completion_tokens": 51}, 400, "max_completion_tokens"),
    "half a token": ({**HELLO, "max_tokens": 1.5}, 400, "max_tokens"),
    "five stops": ({**HELLO, "stop": list("abcde")}, 400, "stop"),
    "an empty stop": ({**HELLO, "stop": [""]}, 400, "stop"),
    "two answers": ({**HELLO, "n": 2}, 400, "n"),
    "tools": ({**HELLO, "tools": [{"type": "function"}]}, 400, "tools"),
    "log probabilities": ({**HELLO, "logprobs": True}, 400, "logprobs"),
    "alternatives": ({"model": "echo", "prompt": "x", "logprobs": 2}, 400, "logprobs"),
    "a key of no message": ({**HELLO, "messages": [{"role": "user", "content": "x", "colour": 1}]}, 400, "messages[0].colour"),
    "a call of no function": (
        {**HELLO, "messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, 400, "messages[0]"),
    "calls that are a text": (
        {**HELLO, "messages": [{"role": "assistant", "tool_calls": "f()"}]}, 400, "messages[0].tool_calls"),
    "an old function call": (
        {**HELLO, "messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]}, 400,
        "messages[0].function_call"),
    "an unknown setting": ({**HELLO, "temprature": 1}, 400, "temprature"),
    "a stream that is a text": ({**HELLO, "stream": "yes"}, 400, "stream"),
    "options without a stream": ({**HELLO, "stream_options": {}}, 400, "stream_options"),
    "an unknown option": ({**HELLO, "stream": True, "stream_options": {"include_usages": True}}, 400, "stream_options"),
    "obfuscation": ({**HELLO, "stream": True, "stream_options": {"include_obfuscation": True}}, 400, "stream_options"),
    "two limits": ({**HELLO, "max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens"),
    "an effort that is a number": ({**HELLO, "reasoning_effort": 1}, 400, "reasoning_effort"),
    "an effort twice": (
        {**HELLO, "reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}, 400, "reasoning_effort"),
    "few words": ({**HELLO, "verbosity": "low"}, 400, "verbosity"),
    "a store": ({**HELLO, "store": True}, 400, "store"),
    "too long": ({**HELLO, "messages": [{"role": "user", "content": "w " * 10}]}, 400, "messages"),
    "too large": ({**HELLO, "messages": [{"role": "user", "content": "w" * 5000}]}, 413, None),
}  # fmt: skip


def test_what_is_wrong_gets_its_status(server):
    for case, (body, status, param) in WRONG.items():
        path = "/v1/completions" if isinstance(body, dict) and "prompt" in body else "/v1/chat/completions"
        error = server.error(status, body, path)
        assert error["param"] == param, case
        assert error["type"] == "invalid_request_error" and error["message"], case
    assert server.error(400, WRONG["too long"][0])["code"] == "context_length_exceeded"
    words = [{"role": "user", "content": "plain words"}]
    assert server.error(400, {**HELLO, "messages": words})["code"] is None, "whatever the message says"
    assert server.error(404, WRONG["an unknown model"][0])["code"] == "model_not_found"
    assert server.error(400, WRONG["an unknown setting"][0])["code"] == "unknown_parameter"
    assert server.error(400, {"model": "echo", "prompt": ["a", "b"]}, "/v1/completions")["param"] == "prompt"
    assert server.error(400, {**HELLO, "prompt": "x"})["param"] == "prompt"
    assert server("GET", "/nowhere")[0] == 404 and server("GET", "/v1/chat/completions")[0] == 405
    assert server("GET", "/nowhere")[2]["error"]["type"] == "invalid_request_error"
    assert server("POST", "/v1/chat/completions", HELLO, Content_Type="text/plain")[0] == 415
    for host in ("evil.example", "evil.example:80", "[", "localhost.evil.example"):
        assert server("GET", "/v1/models", Host=host)[0] == 403, host
    for host in ("localhost", f"127.0.0.1:{server.port}", "[::1]:8000"):
        assert server("GET", "/v1/models", Host=host)[0] == 200, host
    # In chunks, and so without a length that says it beforehand.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/completions", iter([b"x" * 3000] * 2), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 413
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        assert b" 400 " in raw.recv(1000)
    assert server.chat()[0] == 200


def test_what_fails_while_computing(server):
    assert server.error(500, {**HELLO, "messages": [{"role": "user", "content": "fail"}]})["type"] == "server_error"
    assert server.reports[-1] == "a request failed: RuntimeError: kernel launch failed"
    body = {**HELLO, "stream": True, "messages": [{"role": "user", "content": "a fail"}]}
    status, _, raw = server("POST", "/v1/chat/completions", body)
    assert (
        status == 200
        and json.loads(raw.decode().split("\n\n")[-2].removeprefix("data: "))["error"]["type"] == "server_error"
    )
    assert server.chat()[0] == 200


def background(running, content, results, **changes):
    """A request in a thread of its own."""

    def ask():
        results.append(running.chat(messages=[{"role": "user", "content": content}], **changes))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_too_many_wait_and_those_that_leave_make_room():
    with serving(queue=2, batch=2) as running:
        results = []
        threads = [background(running, "wait", results)]
        until(lambda: running.queue.running == 1)
        threads += [background(running, f"later {name}", results, model=name) for name in ("echo", "other")]
        until(lambda: running.queue.waiting == 2)
        status, headers, found = running.chat()
        assert status == 429 and headers["retry-after"] == "1" and found["error"]["code"] == "rate_limit_exceeded"
        assert running("GET", "/health")[2] == {"status": "ok", "waiting": 2, "running": 1}
        running.engine.go.release()
        for thread in threads:
            thread.join(30)
        assert [status for status, _, _ in results] == [200] * 3
        assert sorted(running.engine.batches[1]) == ["echo", "other"], "two deltas in one batch"
        # A client that goes away while it waits is not computed for.
        thread = background(running, "wait", results)
        until(lambda: running.queue.running == 1)
        seen = len(running.engine.seen)
        leaver = http.client.HTTPConnection("127.0.0.1", running.port)
        body = json.dumps({**HELLO, "messages": [{"role": "user", "content": "gone"}]})
        leaver.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        until(lambda: running.queue.waiting == 1)
        leaver.close()
        until(lambda: all(pending.dropped for pending in running.queue._waiting))
        running.engine.go.release()
        thread.join(30)
        assert running.chat()[0] == 200 and "gone" not in [running.engine.text(w) for w in running.engine.seen[seen:]]


def test_a_stream_that_nobody_reads_any_more_is_given_up():
    with serving(batch=1) as running:
        leaver = http.client.HTTPConnection("127.0.0.1", running.port)
        body = {**HELLO, "stream": True, "messages": [{"role": "user", "content": "a wait wait wait b"}]}
        leaver.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = leaver.getresponse()
        assert response.readline().startswith(b"data: ")
        (pending,) = running.taken
        response.close()
        leaver.close()
        until(lambda: pending.dropped)
        running.engine.go.release()
        until(lambda: running.engine.given_up == 1)
        assert running.chat()[0] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "user", "include_usage"]), inner, max_size=4), max_leaves=9,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*sorted(openai._KNOWN | openai._CHAT | openai._TEXT), "\ud800"]), JSON),
    st.booleans(),
)
def test_any_body_is_read_or_refused(changes, chat):
    """Whatever stands where: a request or a refusal that can be sent, nothing else."""
    body = {"model": "echo", "messages": HELLO["messages"]} if chat else {"model": "echo", "prompt": "x"}
    try:
        sent = json.dumps({**body, **changes}).encode()
        request = openai.read_request(openai.parse_json(sent), Limits(), chat=chat)
    except ApiError as refusal:
        assert refusal.status == 400 and json.dumps(refusal.body, ensure_ascii=False).encode()
    else:
        assert 0 <= request.temperature <= 2 and 0 < request.top_p <= 1 and 1 <= request.max_tokens <= 1024
        assert 0 <= request.seed < 2**63 and request.chat == chat and len(request.stop) <= 4


def test_a_key_is_asked_for():
    with serving(key="s3cret") as running:
        assert running("GET", "/health")[0] == 200
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "s3cret"},
            {"Authorization": "Bearer \xff"},
        ):
            status, headers, found = running("GET", "/v1/models", **header)
            assert status == 401 and found["error"]["code"] == "invalid_api_key", header
            assert headers["www-authenticate"] == "Bearer"
        assert running("POST", "/v1/chat/completions", b"{")[0] == 401, "before the body is looked at"
        assert running("POST", "/v1/chat/completions", HELLO, Authorization="Bearer s3cret")[0] == 200


def refused(port):
    """Nobody listens at the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_end_answers_what_was_asked():
    """What is computed and what waits is answered; what comes later is refused or finds nobody."""
    with serving(batch=1) as running:
        results = []
        threads = [background(running, "wait wait here", results)]
        until(lambda: running.queue.running == 1)
        threads.append(background(running, "next", results))
        until(lambda: running.queue.waiting == 1)
        running.end.set()
        # Noticed with the next chunk; the second wait holds the answer up.
        running.engine.go.release()
        until(lambda: refused(running.port))
        running.engine.go.release()
        for thread in threads:
            thread.join(30)
        assert [status for status, _, _ in results] == [200, 200]
        running.worker.join(30)


def test_an_end_without_grace_sends_everyone_away():
    with serving(batch=1, grace=0.0) as running:
        results = []
        threads = [background(running, "wait x y", results)]
        until(lambda: running.queue.running == 1)
        threads.append(background(running, "next", results))
        until(lambda: running.queue.waiting == 1)
        running.end.set()
        running.engine.go.release()
        for thread in threads:
            thread.join(30)
        assert sorted(status for status, _, _ in results) == [503, 503]
        assert "shutting down" in results[0][2]["error"]["message"]


def test_addresses():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip
    place = bind("127.0.0.1", 0)
    place.listen()
    with pytest.raises(SetupError, match="cannot be used"):
        bind("127.0.0.1", place.getsockname()[1])
    place.close()
    with pytest.raises(ConfigError, match="--host no such host: is no address"):
        bind("no such host", 0)
    with pytest.raises(ConfigError, match="--port 70000"):
        bind("127.0.0.1", 70000)
