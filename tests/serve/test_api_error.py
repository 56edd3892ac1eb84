"""The codes that errors get in OpenAI's API depend on their code, never on their text."""

from petrun.errors import DataError, PromptTooLong
from petrun.serve.api_error import OPENAI_CODES


def test_an_errors_code_decides():
    assert OPENAI_CODES.get(PromptTooLong("anything").code) == "context_length_exceeded"
    assert OPENAI_CODES.get(DataError("leaves no room for an answer in the model's positions").code) is None
