"""`petrun serve` as a process of its own: two deltas and the base, a stream that SIGTERM does not cut, exit code 143."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from petrun.serve import settings
from tests.conftest import ROOT
from tests.deltas import make_delta
from tests.tiny import write_base

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}


@pytest.fixture
def running(tmp_path, outside):
    """(process, port)."""
    base = write_base(tmp_path / "llama", "llama")
    make_delta(tmp_path / "a.ckpt", base, "lora", rank=2, size=0.5)
    make_delta(tmp_path / "b.ckpt", base, "ia3", size=0.5)
    (tmp_path / "key").write_text("s3cret\n")
    line = "serve --base llama --delta a.ckpt --delta loud=b.ckpt --port 0 --api-key-file key --max-tokens 64"
    process = subprocess.Popen(
        [sys.executable, "-m", "petrun", *line.split()],
        env={**os.environ, **outside, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline()
        assert said.startswith("serving a, loud, llama on http://127.0.0.1:"), said + process.stderr.read()
        yield process, int(said.rpartition(":")[2].partition("/")[0])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(port, **body):
    """(status, object) of one chat request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), HEADERS)
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def test_a_server_from_its_start_to_sigterm(running):
    process, port = running
    messages = [{"role": "user", "content": "film"}]
    how = {"messages": messages, "temperature": 0, "max_tokens": 6}
    found = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: ask(port, model=name, **how)}))
        for name in ("a", "loud", "llama")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in found.values()] == [200] * 3
    texts = {name: answer["choices"][0]["message"]["content"] for name, (_, answer) in found.items()}
    assert len(set(texts.values())) == 3, texts
    for _, answer in found.values():
        # <user>film<assistant>, a token a byte.
        assert answer["usage"] == {"prompt_tokens": 21, "completion_tokens": 6, "total_tokens": 27}
        assert answer["choices"][0]["finish_reason"] == "length"
    # The same again, whatever it is computed with.
    assert ask(port, model="a", **how)[1]["choices"] == found["a"][1]["choices"]
    stop = texts["a"][3]
    status, cut = ask(port, model="a", stop=stop, **how)
    assert cut["choices"][0]["message"]["content"] == texts["a"].partition(stop)[0]
    assert cut["choices"][0]["finish_reason"] == "stop"
    status, refused = ask(port, model="a", messages=[{"role": "user", "content": "a" * 5000}])
    assert status == 400 and refused["error"]["code"] == "context_length_exceeded"
    assert refused["error"]["message"].startswith("the prompt: a prompt of 5017 tokens leaves no room")
    status, refused = ask(port, model="a", messages=[{"role": "user"}])
    assert status == 400 and refused["error"]["param"] == "messages[0].content"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
    body = {**how, "model": "loud", "max_tokens": 32, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), HEADERS)
    response = connection.getresponse()
    first = response.readline()
    process.send_signal(signal.SIGTERM)
    rest = response.read()
    assert first.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n")
    connection.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("--host 0.0.0.0", ["--host 0.0.0.0: other machines reach this address", "--api-key-env"], 2),
        ("--api-key-env PETRUN_NO_KEY", ["--api-key-env PETRUN_NO_KEY: the variable is not set"], 2),
        ("--api-key-file nowhere", ["--api-key-file nowhere: cannot be read"], 2),
        ("--api-key-file reviews.jsonl", ["--api-key-file reviews.jsonl: the file must hold one word"], 2),
        ("--api-key-file reviews.jsonl --api-key-env X", ["give one of them"], 2),
        ("--port 99999", ["--port 99999: must lie in 0 to 65535"], 2),
        ("--queue 0 --max-tokens 0 --grace -1", ["--queue 0: must be", "--max-tokens 0: must", "--grace -1: must"], 2),
        ("--port 0 --base gpt2 --delta gpt2=gpt2-lora", ["a delta is called gpt2, as the base is"], 2),
        ("--port 0 --base bert", ["base generates no text"], 1),
    ],
)
def test_what_is_not_served(refused, line, words, code):
    refused(f"serve {line}", words, code)


def test_packages_that_are_not_there(monkeypatch, refused):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    refused("serve", ["petrun serve needs the packages starlette and uvicorn", "pip install 'petrun[serve]'"])
