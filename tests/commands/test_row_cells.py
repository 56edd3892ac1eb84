"""What a row holds beside its prompt, through training, generation and the server; and what nothing reads."""

import json
from functools import partial

import mindspore as ms
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.errors import ConfigError, DataError
from petrun.inference.generation import multi_delta
from petrun.inference.generation.session import PromptRequest, Session
from petrun.inference.generation.session_engine import SessionEngine
from petrun.parallel.context import setup
from petrun.serve.api_error import ApiError
from petrun.serve.openai import Limits, read_request
from tests.deltas import make_delta
from tests.tiny import write_base, write_rows

THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if tools %}{{ tools | length }}{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}<>{% endif %}{% endif %}"
)
TALK = [{"role": "user", "content": "x"}]
BARE = len("<user>x<assistant>")


@pytest.fixture
def base(tmp_path):
    folder = write_base(tmp_path / "llama", "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": THINKING}))
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Operator by operator: nothing is compiled."""
    monkeypatch.setattr(multi_delta, "setup", partial(setup, pynative=True))
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def test_a_session_reads_cells_as_files_do(base, quick):
    session = Session.open(str(base))
    lengths = {
        BARE: {},
        BARE + 2: {"enable_thinking": False},
        BARE + 1: {"tools": '[{"name": "f"}]'},
        BARE + 9: {"system": "s"},
        BARE + len("<user>a<assistant>b") + 1: {"history": [["a", "b"]]},
    }
    for length, cells in lengths.items():
        assert (
            session.check(PromptRequest(TALK, cells=cells)) == session.check(PromptRequest("x", cells=cells)) == length
        ), cells
    with pytest.raises(DataError, match="the template chat does not read mood"):
        session.check(PromptRequest(TALK, cells={"chat_template_kwargs": {"mood": "good"}}))
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert (
        session.check(PromptRequest(parts)) == session.check(PromptRequest([{"from": "human", "value": "x"}])) == BARE
    )


def test_settings_are_the_default_of_every_template_that_reads_them(base, quick, tmp_path):
    make_delta(tmp_path / "own.ckpt", base, "lora", rank=2, template="Q: {{ prompt }}")
    off = ["data.chat_template_kwargs.enable_thinking=false"]
    session = Session.open(str(base), [str(tmp_path / "own.ckpt")], settings=off)
    assert session.check(PromptRequest(TALK)) == BARE + 2
    assert session.check(PromptRequest(TALK, cells={"enable_thinking": True})) == BARE
    assert session.check(PromptRequest("x", "own")) == len("Q: x")
    with pytest.raises(DataError, match="the template delta does not read system, which this row holds"):
        session.check(PromptRequest("x", "own", cells={"system": "s"}))
    with pytest.raises(ConfigError, match=r"data\.chat_template_kwargs\.mood: the template"):
        Session.open(str(base), settings=["data.chat_template_kwargs.mood=good"])


def test_requests_switch_thinking(base, quick):
    engine = SessionEngine(Session.open(str(base)), "llama", 8, 48)

    def tokens(**more):
        return engine.check(read_request({"model": "llama", "messages": TALK, **more}, Limits(), chat=True))

    assert tokens() == BARE
    assert tokens(enable_thinking=False) == BARE + 2
    assert tokens(chat_template_kwargs={"enable_thinking": False}) == BARE + 2
    assert tokens(chat_template_kwargs=None, enable_thinking=True) == BARE
    with pytest.raises(DataError, match="the template chat does not read mood"):
        tokens(chat_template_kwargs={"mood": 1})
    for more, param in (
        ({"enable_thinking": "perhaps"}, "enable_thinking"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ):
        with pytest.raises(ApiError) as caught:
            tokens(**more)
        assert (caught.value.status, caught.value.body["error"]["param"]) == (400, param)
    with pytest.raises(ApiError, match="Unknown parameter"):
        read_request({"model": "llama", "prompt": "x", "enable_thinking": False}, Limits(), chat=False)


def test_prompts_of_a_file(base, quick, petrun, place):
    cells = [{"enable_thinking": False}, {"tools": [{"name": "f"}]}, {}]
    write_rows(place / "rows.jsonl", [{"messages": TALK, **more} for more in cells])
    write_rows(place / "forms.jsonl", [{"conversations": [{"from": "human", "value": "x"}], **more} for more in cells])
    found = [
        petrun(f"generate --base {base} --prompts {name}.jsonl --json --max-new-tokens 3") for name in ("rows", "forms")
    ]
    texts = [[json.loads(line)["text"] for line in done.out.splitlines()] for done in found]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3, found
    for row, said in (
        ({"messages": TALK, "tool": []}, "unknown key 'tool'"),
        ({"messages": "x"}, "messages must be a list of messages"),
        ({"prompt": 1}, "prompt must be a text, or messages"),
        ({"prompt": "x", "messages": TALK}, "must have either prompt or messages"),
    ):
        write_rows(place / "bad.jsonl", [row])
        done = petrun(f"generate --base {base} --prompts bad.jsonl")
        assert done.code == 1 and f"bad.jsonl, line 1: {said}" in done.err


def test_a_run_names_what_nothing_reads_and_its_delta_keeps_the_switch(base, petrun, place, tmp_path):
    answer = {"role": "assistant", "content": "y", "id": 5}
    write_rows(place / "rows.jsonl", [{"messages": [*TALK, answer], "source": "web", "n": 1}] * 4)
    train = f"train --base {base} --data rows.jsonl --steps 1 --batch-size 2 --rank 2 --set eval.samples=0"
    done = petrun(f"{train} --out run --set data.chat_template_kwargs.enable_thinking=false")
    assert done.code == 0, done.err
    assert "not read  columns source, n; key id of messages" in " ".join((done.out + done.err).split()).replace(
        "not read ", "not read  "
    )
    template = read_delta(str(place / "run" / "lora.ckpt")).manifest.template
    assert template.endswith(THINKING) and "enable_thinking = false" in template
    quiet = petrun(f"{train} --out other --set data.ignore=[source,n] --set data.chat_template_kwargs.mood=good")
    assert quiet.code == 2 and "data.chat_template_kwargs.mood: the template chat does not read it" in quiet.err
