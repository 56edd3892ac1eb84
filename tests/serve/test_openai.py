"""What requests become, and the codes that errors get in OpenAI's API: they depend on their code, never on their text."""

from petrun.errors import DataError, PromptTooLong
from petrun.serve.openai import OPENAI_CODES, Limits, read_request


def test_an_errors_code_decides():
    assert OPENAI_CODES.get(PromptTooLong("anything").code) == "context_length_exceeded"
    assert OPENAI_CODES.get(DataError("leaves no room for an answer in the model's positions").code) is None


def test_an_effort_is_a_variable_of_the_chat_template():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "low"}
    assert read_request(body, Limits(), chat=True).cells == {"chat_template_kwargs": {"reasoning_effort": "low"}}
    beside = {**body, "chat_template_kwargs": {"mood": "good"}, "enable_thinking": True}
    assert read_request(beside, Limits(), chat=True).cells == {
        "chat_template_kwargs": {"mood": "good", "reasoning_effort": "low"},
        "enable_thinking": True,
    }
