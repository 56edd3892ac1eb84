"""Errors in the form of OpenAI's API, which a client gets instead of an answer."""

from __future__ import annotations

from petrun.errors import PromptTooLong

OPENAI_CODES = {PromptTooLong.class_code: "context_length_exceeded"}
"""Code of a petrun error -> the code that OpenAI's API has for it; other errors have none."""


class ApiError(Exception):
    """An HTTP status and OpenAI's error object, which a client gets instead of an answer."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": _sendable(message),
                "type": kind or ("invalid_request_error" if status < 500 else "server_error"),
                "param": None if param is None else _sendable(param),
                "code": code,
            }
        }


def _sendable(text: str) -> str:
    """Escape lone surrogates, which a client may have sent and UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()
