"""Answer lines from a person or a pipe, one after another; lines that begin with / are commands."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from petrun import console
from petrun.errors import DataError, PetrunError
from petrun.train.stop import Stopped, stop_request

if TYPE_CHECKING:
    from petrun.inference.generation.session import Answer, Decoding, Prompt, Session

HELP = """/use NAME  answer with this delta
/off       answer with the base alone
/list      the deltas, * the one in use
/new       forget the conversation
/help      this
/quit      end (as the end of the input does)
Ctrl-C     stops an answer"""
_SETTLE_SECONDS = 0.3


class Chat:
    """Reads lines and answers them: answers go to standard output, everything else to standard error."""

    def __init__(self, session: Session, how: Decoding, *, history: bool, as_json: bool) -> None:
        self.session = session
        self.how = how
        self.history = history
        self.as_json = as_json
        self.messages: list[dict[str, str]] = []
        self.person = sys.stdin.isatty()

    def run(self) -> None:
        """Answer until the input ends. Raises Stopped for SIGTERM, and for two Ctrl-C without an answer between."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if self.person:
            with suppress(ImportError):
                # Gives input() arrow keys and earlier lines.
                import readline  # noqa: F401
            self.tell(f"{self.listed()}\n/help lists the commands.")
        warned = False
        while True:
            try:
                line = self.read()
            except Stopped as stopped:
                # The thread that tells signals apart has not handled the signal yet that woke this thread.
                time.sleep(_SETTLE_SECONDS)
                stop_request().forget()
                if stopped.number != signal.SIGINT or warned:
                    raise
                warned = True
                self.tell("\n/quit ends, and so does another Ctrl-C")
                continue
            warned = False
            if line is None or not self.take(line):
                return

    def read(self) -> str | None:
        """Read the next line; None at the end."""
        if not self.person:
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        try:
            return input(f"{self.session.current}> ")
        except EOFError:
            self.tell("")
            return None

    def take(self, line: str) -> bool:
        """Do what a line says. Returns False to end."""
        text = line.strip()
        if not text:
            return True
        if not text.startswith("/"):
            self.answer(text)
            return True
        command, *rest = text.split(maxsplit=1)
        if command == "/quit" and not rest:
            return False
        if command == "/help" and not rest:
            self.tell(HELP)
        elif command == "/list" and not rest:
            self.tell(self.listed())
        elif command == "/new" and not rest:
            self.messages = []
        elif command == "/off" and not rest:
            self.use(None)
        elif command == "/use" and rest:
            self.use(rest[0])
        else:
            self.tell(f"{text}: no such command. /help lists them.")
        return True

    def use(self, name: str | None) -> None:
        """Answer with another delta from now on, without the earlier turns."""
        try:
            self.session.use(name)
        except PetrunError as error:
            self.tell(str(error))
            return
        self.messages = []
        self.tell(f"using {self.session.current}")

    def listed(self) -> str:
        names = (*self.session.names, *(() if self.session.multi_adapter.fixed else ("off",)))
        return "\n".join(f"{'*' if name == self.session.current else ' '} {name}" for name in names)

    def answer(self, text: str) -> None:
        """Print the answer as it comes. An error in the line is printed, and the next line is read."""
        try:
            prompt = self.prompt(text)
            answer, shown = self.stream(prompt)
        except PetrunError as error:
            self.tell(str(error))
            return
        if self.as_json and answer is not None:
            told = {"prompt": text, "delta": self.session.current, "text": answer.text}
            console.print(json.dumps({**told, "finish": answer.finish, "tokens": answer.tokens}, ensure_ascii=False))
        if not isinstance(prompt, str):
            self.messages = [*prompt, {"role": "assistant", "content": shown}]

    def prompt(self, text: str) -> str | list[dict[str, str]]:
        """Return the line, or the conversation that it continues, without the oldest turns where the model has no positions for them."""
        from petrun.inference.generation.session import PromptRequest

        if not (self.history and self.session.template().is_chat):
            return text
        messages = [*self.messages, {"role": "user", "content": text}]
        while len(messages) > 1:
            try:
                self.session.check(PromptRequest(messages, self.session.current, self.how))
                break
            except DataError:
                messages = messages[2:]
        return messages

    def stream(self, prompt: Prompt) -> tuple[Answer | None, str]:
        """Return (the answer, None where it was stopped; the printed text). Raises Stopped for SIGTERM."""
        from petrun.inference.generation.session import PromptRequest

        request = stop_request()
        shown, answer = "", None
        chunks = self.session.chunks([PromptRequest(prompt, self.session.current, self.how)])
        with request.deferring():
            for chunk in chunks:
                shown += chunk.text
                answer = chunk.answer
                if chunk.text and not self.as_json:
                    console.write(chunk.text)
                if request.number is not None:
                    chunks.close()
                    break
        if not self.as_json:
            console.print()
        number = request.number
        request.forget()
        if number is not None and number != signal.SIGINT:
            raise Stopped(number)
        return answer, shown

    def tell(self, text: str) -> None:
        console.print_to_stderr(text)
