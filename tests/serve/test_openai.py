"""What the bodies of requests become."""

from petrun.serve.openai import Limits, read_request


def test_an_effort_is_a_variable_of_the_chat_template():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "low"}
    assert read_request(body, Limits(), chat=True).cells == {"chat_template_kwargs": {"reasoning_effort": "low"}}
    beside = {**body, "chat_template_kwargs": {"mood": "good"}, "enable_thinking": True}
    assert read_request(beside, Limits(), chat=True).cells == {
        "chat_template_kwargs": {"mood": "good", "reasoning_effort": "low"},
        "enable_thinking": True,
    }
