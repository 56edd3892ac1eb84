"""`petrun generate`: lines from a pipe, prompts from flags and files, and what ends it."""

import io
import json
import os
import signal
import sys
import time
from functools import partial

import mindspore as ms
import pytest

from petrun.evaluate.text_stream import TextStream
from petrun.inference.generation import multi_delta
from petrun.parallel.context import setup
from tests.deltas import make_delta


@pytest.fixture
def deltas(place):
    """a.ckpt (LoRA), and a run folder b with (IA)^3 in it, both of llama."""
    make_delta(place / "a.ckpt", place / "llama", "lora", rank=2, size=0.5)
    (place / "b").mkdir()
    make_delta(place / "b" / "ia3.ckpt", place / "llama", "ia3", size=0.5)
    return place


@pytest.fixture
def quick(monkeypatch):
    """Operator by operator: a graph takes a second to compile, and the text is the same."""
    monkeypatch.setattr(multi_delta, "setup", partial(setup, pynative=True))
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def speak(monkeypatch, *lines):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


BOTH = "generate --base llama --delta a.ckpt --delta second=b --max-new-tokens 5"


def test_lines_commands_files_and_prompts_agree(quick, deltas, petrun, monkeypatch):
    """The same questions by a pipe with /use and by a file that names the delta of each: the same answers."""
    speak(monkeypatch, "film", "", "/use second", "film", "/use third", "/of", "/list", "/off", "film", "/quit", "film")
    done = petrun(f"{BOTH} --json")
    assert done.code == 0, done.err
    said = objects(done.out)
    assert [(s["prompt"], s["delta"], s["tokens"]) for s in said] == [("film", d, 5) for d in ("a", "second", "off")]
    assert len({s["text"] for s in said}) == 3
    for words in ("using second", "no delta is called 'third'", "/of: no such command", "* second", "using off"):
        assert words in done.err
    rows = [{"prompt": "film", "delta": s["delta"]} for s in said]
    rows[0] = {"messages": [{"role": "user", "content": "film"}]}
    # U+2028 and U+0085 end no line: they stand within a row.
    strange = {"prompt": "film\u2028good\x85film", "delta": "a"}
    (deltas / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in [*rows, strange]))
    from_file = petrun(f"{BOTH} --prompts rows.jsonl --json")
    (deltas / "rows.txt").write_text("film\u2028good\x85film\nfilm\n")
    assert len(from_lines := petrun(f"{BOTH} --prompts rows.txt --json").out.strip("\n").split("\n")) == 2
    assert [json.loads(line)["prompt"] for line in from_lines] == ["film\u2028good\x85film", "film"]
    answers = [json.loads(line) for line in from_file.out.strip("\n").split("\n")]
    assert [s["text"] for s in answers[:3]] == [s["text"] for s in said] and answers[3]["prompt"] == strange["prompt"]
    one = petrun(f"{BOTH} --use second --prompt film")
    assert one.code == 0 and one.out == said[1]["text"] + "\n"


def test_a_conversation_goes_on_until_the_delta_changes(quick, deltas, petrun, monkeypatch):
    """llama's tokenizer has a chat template; what was said before counts, and with --no-history it does not."""
    speak(monkeypatch, "a", "a", "/use a", "a", "/new", "a")
    said = objects(petrun(f"{BOTH} --json --max-new-tokens 3").out)
    assert said[0] == said[2] == said[3] and said[1]["text"] != said[0]["text"]
    speak(monkeypatch, "a", "a")
    alone = objects(petrun(f"{BOTH} --json --no-history --max-new-tokens 3").out)
    assert alone == [said[0], said[0]]


def test_ctrl_c_stops_the_answer_and_sigterm_the_program(quick, deltas, petrun, monkeypatch):
    real, sent = TextStream.push, []

    def push(self, token):
        if len(sent) < len(signals) and len(self._tokens) == 1:
            sent.append(os.kill(os.getpid(), signals[len(sent)]))
            # The thread that waits for it has to see it.
            time.sleep(0.5)
        return real(self, token)

    monkeypatch.setattr(TextStream, "push", push)
    signals = [signal.SIGINT]
    speak(monkeypatch, "film", "/new", "film")
    done = petrun(BOTH)
    stopped, whole = done.out.splitlines()
    assert done.code == 0 and whole.startswith(stopped) and len(stopped) < len(whole)
    signals, sent = [signal.SIGTERM], []
    speak(monkeypatch, "film", "film")
    done = petrun(BOTH)
    assert done.code == 143 and "interrupted" in done.err and "Traceback" not in done.err


class Fingers(io.StringIO):
    """A person who presses Ctrl-C instead of writing, `times` times, and then writes a line."""

    def __init__(self, times):
        super().__init__("film\n")
        self.times = times

    def readline(self, *size):
        if self.times:
            self.times -= 1
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return super().readline(*size)


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_at_the_prompt_ends_the_program_the_second_time(quick, deltas, petrun, monkeypatch, times, code):
    monkeypatch.setattr(sys, "stdin", Fingers(times))
    done = petrun(f"{BOTH} --json --max-new-tokens 3")
    assert done.code == code and "so does another Ctrl-C" in done.err
    assert [s["tokens"] for s in objects(done.out)] == ([3] if code == 0 else [])


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("--delta none.ckpt --prompt x", ["none.ckpt"], 1),
        ("--delta a.ckpt --use b --prompt x", ["no delta is called 'b'", "There are: a"], 2),
        ("--delta a.ckpt --delta a.ckpt --prompt x", ["would both be called a", "NAME=PATH"], 2),
        ("--prompts none.txt", ["none.txt: no such data file"], 1),
        ("--prompts empty.txt", ["empty.txt: the file is empty"], 1),
        ("--prompts bad.jsonl", ["bad.jsonl, line 2", "not valid JSON"], 1),
        ("--prompt x --temperature -1", ["temperature = -1.0"], 2),
        ("--prompt x --max-new-tokens 0", ["max_new_tokens = 0"], 2),
        (
            "--prompt x --top-p 0.9 --seed 1",
            ["--top-p: has no effect at temperature 0", "--seed", "Give --temperature 1"],
            2,
        ),
        ("--prompt x --no-history", ["--no-history: has no effect on --prompt and --prompts"], 2),
        ("--prompt x --set optim.lr=1", ["--set optim.lr: has no effect on this command", "It reads model.*"], 2),
        ("--delta bert-lora --prompt x", ["bert base"], 1),
        ("--delta a.ckpt --delta c.ckpt --prompt x", ["c.ckpt", "adapter cannot be switched", "ptuning2"], 2),
    ],
)
def test_refusals(quick, deltas, refused, line, words, code):
    (deltas / "empty.txt").write_text("\n\n")
    (deltas / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    if "c.ckpt" in line:
        make_delta(deltas / "c.ckpt", deltas / "llama", "adapter")
    refused(f"generate --base llama {line}", words, code)
