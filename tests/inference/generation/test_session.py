"""A session: one net, several deltas, text."""

import mindspore as ms
import numpy as np
import pytest

from petrun.errors import ConfigError, DataError, DeltaError, ModelError
from petrun.graph.compilations import compilations
from petrun.inference.generation.session import Decoding, PromptRequest, Session
from tests.deltas import make_delta
from tests.tiny import CHAT, write_base

FEW = Decoding(max_new_tokens=6)
DRAWN = Decoding(max_new_tokens=6, temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A llama base with deltas a (LoRA), b (prompt, its own template) and c (adapter)."""
    folder = tmp_path_factory.mktemp("session")
    base = write_base(folder / "llama", "llama")
    make_delta(folder / "a.ckpt", base, "lora", rank=2, size=0.5)
    make_delta(folder / "b.ckpt", base, "prompt", tokens=3, size=0.5, template="Q: {{ prompt }} A:")
    make_delta(folder / "c.ckpt", base, "adapter", size=0.5)
    return folder


def opened(folder, *names, **settings):
    """In the mode that the test runs in: opening a session sets GRAPH mode, as any command does."""
    mode = ms.get_context("mode")
    session = Session.open(str(folder / "llama"), [str(folder / f"{name}.ckpt") for name in names], **settings)
    ms.set_context(mode=mode)
    return session


def test_switching_in_one_graph_equals_each_delta_alone(graph_mode, folder):
    """Rows of one call by three deltas, and streams in turn: what each alone answers; two graphs for all of it."""
    session = opened(folder, "a", "b", batch_size=4)
    assert session.names == ("a", "b") and session.current == "off"
    prompts = ["1+2=", "film", "a"]
    with compilations() as count:
        mixed = session.generate(prompts, delta=["a", "b", "off"], how=FEW)
        assert count.graphs == 2
        again = session.generate(prompts[:1], how=FEW) + session.generate(["x"], delta="b", how=FEW)
        # A smaller batch has another shape, and no other delta has.
        assert count.graphs == 4
        session.use("a")
        stream = session.stream(prompts[0], how=FEW)
        text = "".join(stream)
        assert count.graphs == 4
    assert stream.answer == mixed[0] and text == mixed[0].text
    assert {a.finish for a in mixed} == {"length"} and all(a.tokens == 6 for a in mixed)
    assert len({a.text for a in mixed}) == 3 and again[0].text != mixed[0].text
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for name, prompt, answer in zip("ab", prompts, mixed, strict=False):
        alone = opened(folder, name)
        alone.use(name)
        assert alone.generate([prompt], how=FEW) == [answer]
    ms.set_context(mode=ms.GRAPH_MODE)


def test_prompts_are_rendered_as_in_training(pynative, folder):
    session = opened(folder, "a", "b")
    assert session.template("b").text == "Q: {{ prompt }} A:" and session.template("off").text == CHAT
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "x"}]
    # <user>x<assistant>, one token a byte; the history's answer ends as in training.
    assert session.check(PromptRequest("x")) == len("<user>x") + len("<assistant>")
    assert session.check(PromptRequest(talk)) == len("<user>hi<assistant>yo") + 1 + len("<user>x<assistant>")
    assert session.check(PromptRequest("xy", "b")) == len("Q: xy A:")
    with pytest.raises(DataError, match="does not read history"):
        session.check(PromptRequest(talk, "b"))
    assert opened(folder, "b", template="plain").check(PromptRequest("xy", "b")) == 2


def test_stops_seeds_and_penalty(graph_mode, folder):
    session = opened(folder, "a", batch_size=2)
    session.use("a")
    (whole,) = session.generate(["film"], how=FEW)
    stop = whole.text[2]
    (cut,) = session.generate(["film"], how=Decoding(max_new_tokens=6, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop" and cut.tokens < 6
    drawn = session.generate(["film"], how=DRAWN)
    assert drawn == session.generate(["film"], how=DRAWN)
    assert drawn != session.generate(["film"], how=Decoding(max_new_tokens=6, temperature=1.5, seed=4))
    penal = session.generate(["film"], how=Decoding(max_new_tokens=6, repetition_penalty=50.0))[0]
    assert penal.text != whole.text
    # Given up half-way; a chunk comes for every token, whether it shows anything or not.
    chunks = session.chunks([PromptRequest("film", "a", DRAWN)])
    next(chunks)
    chunks.close()
    assert len(list(session.chunks([PromptRequest("film", "a", FEW)]))) == 6
    assert session.generate(["film"], how=FEW) == [whole]


def test_an_adapter_stands_alone(pynative, folder):
    session = opened(folder, "c")
    assert session.current == "c" and session.generate(["a"], how=Decoding(max_new_tokens=2))[0].tokens <= 2
    with pytest.raises(ConfigError, match="c cannot be switched off"):
        session.use("off")
    with pytest.raises(ConfigError, match="adapter cannot be switched"):
        opened(folder, "a", "c")


def test_bad_requests(pynative, folder, tmp_path):
    session = opened(folder, "a")
    with pytest.raises(ConfigError, match="no delta is called 'A'"):
        session.use("A")
    with pytest.raises(DataError, match="positions"):
        session.generate(["x" * 200], how=FEW)
    with pytest.raises(DataError, match=r"^prompt 2: "):
        session.generate(["x", "x" * 200], delta=["a", "off"], how=FEW)
    for bad in ({"max_new_tokens": 0}, {"stop": ("",)}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ConfigError):
            Decoding(**bad)
    bert = write_base(tmp_path / "bert", "bert")
    with pytest.raises(ModelError, match="generates no text"):
        Session.open(str(bert))
    label = make_delta(tmp_path / "label.ckpt", bert, "lora", task="classify")
    with pytest.raises(DeltaError, match="bert base"):
        Session.open(str(folder / "llama"), [str(label)])


def test_log_probabilities_are_those_of_the_whole_text(pynative, folder):
    """Greedy or drawn: of every token what one pass over prompt and answer says, before temperature."""
    session = opened(folder, "a")
    for how in (FEW, DRAWN):
        chunks = list(
            session.chunks([PromptRequest("film", "off", how, scored=True), PromptRequest("film", "off", how)])
        )
        scored = [score for chunk in chunks if chunk.index == 0 for score in chunk.scores]
        answers = {chunk.index: chunk.answer for chunk in chunks if chunk.answer is not None}
        assert "".join(text for text, _ in scored) == answers[0].text == answers[1].text
        assert not any(chunk.scores for chunk in chunks if chunk.index == 1)
        prompt = session.tokenizer.encode("<user>film<assistant>", special=False)
        request = session.render(0, PromptRequest("film", "off", how, scored=True), None)
        tokens = [step.token for steps in session._generator.stream([request]) for step in steps]
        ids = np.array([[*prompt, *tokens]], np.int32)
        session.multi_adapter.select([0])
        places = ms.Tensor(np.arange(ids.shape[1], dtype=np.int32)[None])
        logits = (
            session.loaded.net(ms.Tensor(ids), ms.Tensor(np.ones_like(ids)), places).asnumpy()[0].astype(np.float64)
        )
        log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = [log_shares[len(prompt) - 1 + i, token] for i, token in enumerate(tokens)]
        assert [value for _, value in scored] == pytest.approx(expected, abs=1e-4)


def test_conversations_of_a_delta_that_learned_prompts(folder):
    session = opened(folder, "b")
    said = [{"role": "user", "content": "film"}]
    assert session.check(PromptRequest(said, "b")) == session.check(PromptRequest("film", "b"))
    with pytest.raises(DataError, match="system"):
        session.check(PromptRequest([{"role": "system", "content": "x"}, *said], "b"))
