"""`petrun generate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petrun.cli import options, signals
from petrun.cli.chat import Chat
from petrun.cli.options import MODEL, RUN, Flag, Number, Text, Texts, Whole, option
from petrun.errors import ConfigError, DataError

if TYPE_CHECKING:
    from petrun.runs.session import Decoding, Session

TEXT = "Text"


def generate(
    base: options.Base = None,
    delta: options.NamedDeltas = None,
    use: Annotated[Text, option("--use", "Name of the delta to begin with, or off. Default: the first.", MODEL)] = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    template: options.TemplateForAll = None,
    prompt: Annotated[
        Texts, option("--prompt", "Answer this and end, instead of reading lines from you. Repeatable.", TEXT)
    ] = None,
    prompts: Annotated[
        Text,
        option(
            "--prompts",
            "Answer every line of this file and end; in a .jsonl file {prompt: ...} or {messages: [...]}, and delta: NAME where another.",
            TEXT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object an answer.", rich_help_panel=TEXT)
    ] = False,
    max_new_tokens: Annotated[Whole, option("--max-new-tokens", "Longest answer in tokens. Default 128.", TEXT)] = None,
    temperature: Annotated[
        Number,
        option("--temperature", "Draw from softmax(logits / temperature); 0 takes the likeliest. Default 0.", TEXT),
    ] = None,
    top_k: Annotated[
        Whole, option("--top-k", "Draw from the k likeliest tokens; 0: from all. Default 0.", TEXT)
    ] = None,
    top_p: Annotated[
        Number, option("--top-p", "Draw from the fewest tokens that have this probability together. Default 1.", TEXT)
    ] = None,
    repetition_penalty: Annotated[
        Number,
        option("--repetition-penalty", "Over 1: tokens that are there already become less likely. Default 1.", TEXT),
    ] = None,
    stop: Annotated[Texts, option("--stop", "End an answer before this text. Repeatable.", TEXT)] = None,
    seed: Annotated[Whole, option("--seed", "Of what is drawn. Default 0.", TEXT)] = None,
    no_history: Annotated[
        Flag, option("--no-history", "Every line is a conversation of its own, under a chat template too.", TEXT)
    ] = None,
    batch_size: Annotated[Whole, option("--batch-size", "Most prompts answered together. Default 8.", RUN)] = None,
    device: options.Device = None,
    settings: options.Set = None,
) -> None:
    """Write text with a base and any number of deltas, switched between in one compiled graph.

    Without --prompt and --prompts it reads lines: /use NAME, /off, /list, /help, /quit are commands, everything else is a prompt.

        petrun generate --delta runs/lora-1 --delta short=runs/ia3-1/ia3.ckpt
        petrun generate --delta runs/lora-1 --prompt "Extract the order. ..."
    """
    asked: list[dict[str, Any]] = [{"prompt": text} for text in prompt or []]
    if prompts is not None:
        asked += _read_prompts(prompts)
    # Before MindSpore is imported.
    with signals.told_apart():
        from petrun.runs.session import Decoding, Session

        how = Decoding(
            max_new_tokens=128 if max_new_tokens is None else max_new_tokens,
            temperature=temperature or 0.0,
            top_k=top_k or 0,
            top_p=1.0 if top_p is None else top_p,
            repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
            stop=tuple(stop or ()),
            seed=seed or 0,
        )
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"--batch-size {batch_size} is below 1")
        session = Session.open(
            base,
            delta or [],
            model=model,
            template=template,
            alpha=alpha,
            device=device,
            batch_size=batch_size or 8,
            settings=settings or [],
        )
        session.use(use if use is not None else next(iter(session.names), None))
        if prompt is None and prompts is None:
            Chat(session, how, history=not no_history, as_json=as_json).run()
        else:
            _answer_all(session, how, asked, as_json)


def _answer_all(session: Session, how: Decoding, asked: list[dict[str, Any]], as_json: bool) -> None:
    """One prompt streams; many are computed together and printed in their order."""
    texts: list[Any] = [item.get("messages", item.get("prompt")) for item in asked]
    names = [item.get("delta", session.current) for item in asked]
    if len(asked) == 1 and not as_json:
        for piece in session.stream(texts[0], delta=names[0], how=how):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
        typer.echo()
        return
    for item, name, answer in zip(asked, names, session.generate(texts, delta=names, how=how), strict=True):
        if as_json:
            told = {"delta": name, "text": answer.text, "finish": answer.finish, "tokens": answer.tokens}
            typer.echo(json.dumps({**item, **told}, ensure_ascii=False))
        else:
            typer.echo(answer.text)


def _read_prompts(path: str) -> list[dict[str, Any]]:
    """Lines of a file. Raises DataError naming the line."""
    from pathlib import Path

    try:
        lines = Path(path).expanduser().read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"--prompts {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"--prompts {path}: is not UTF-8 text (byte {error.start})") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"--prompts {path}: holds no prompt", hint="One prompt a line.")
    if not path.endswith(".jsonl"):
        return [{"prompt": line} for _, line in numbered]
    return [_read_object(f"--prompts {path}, line {number}", line) for number, line in numbered]


def _read_object(where: str, line: str) -> dict[str, Any]:
    shape = 'Example: {"prompt": "Hello", "delta": "a"}, or {"messages": [{"role": "user", "content": "Hello"}]}.'
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})", hint=shape) from error
    if not isinstance(item, dict) or set(item) - {"prompt", "messages", "delta"}:
        raise DataError(f"{where}: must be an object with prompt or messages, and perhaps delta", hint=shape)
    if ("prompt" in item) == ("messages" in item) or not isinstance(item.get("prompt", ""), str):
        raise DataError(f"{where}: must have either prompt, a text, or messages", hint=shape)
    if not isinstance(item.get("messages", []), list) or not isinstance(item.get("delta", ""), str):
        raise DataError(f"{where}: messages must be a list, and delta a name", hint=shape)
    return item
