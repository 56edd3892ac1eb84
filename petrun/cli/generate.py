"""`petrun generate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petrun.cli import options, signals
from petrun.cli.chat import Chat
from petrun.cli.options import MODEL, RUN, Flag, Number, Text, Texts, Whole, option
from petrun.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from petrun.inference.session import Decoding, Session

TEXT = "Text"
_PROMPTS = ("prompt", "messages", "conversations")


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
            "Answer every line of this file and end; in a .jsonl file {prompt: ...} or {messages: [...]}, and perhaps delta: NAME, "
            "system, tools, enable_thinking and chat_template_kwargs.",
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
        from petrun.inference.session import Decoding, Session

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
    from petrun.data.chat.messages import EXTRA_CELLS

    texts: list[Any] = [next(_prompt(name, item[name]) for name in _PROMPTS if name in item) for item in asked]
    cells = [{name: item[name] for name in EXTRA_CELLS if name in item} for item in asked]
    names = [item.get("delta", session.current) for item in asked]
    if len(asked) == 1 and not as_json:
        for piece in session.stream(texts[0], delta=names[0], how=how, cells=cells[0]):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
        typer.echo()
        return
    answers = session.generate(texts, delta=names, how=how, cells=cells)
    for item, name, answer in zip(asked, names, answers, strict=True):
        if as_json:
            told = {"delta": name, "text": answer.text, "finish": answer.finish, "tokens": answer.tokens}
            typer.echo(json.dumps({**item, **told}, ensure_ascii=False))
        else:
            typer.echo(answer.text)


def _prompt(name: str, value: Any) -> Any:
    """A text, or messages; a file may hold these as JSON text."""
    return json.loads(value) if name != "prompt" and isinstance(value, str) else value


def _read_prompts(path: str) -> list[dict[str, Any]]:
    """Lines of a file, which may be compressed and in any encoding that data files may have. Raises DataError naming the line."""
    from petrun.data.formats.encoding import decode_text
    from petrun.data.formats.source import read_source

    try:
        source = read_source(path)
        decoded = decode_text(source)
    except DataError as error:
        raise DataError(f"--prompts {error.message}", hint=error.hint) from error
    if decoded.note:
        typer.echo(f"note: {decoded.note}", err=True)
    # Only at line ends: str.splitlines would cut at U+2028 and U+0085 too, which stand within texts and JSON strings.
    numbered = [(number, line) for number, line in enumerate(decoded.text.split("\n"), 1) if line.strip()]
    if source.rows is not None:
        numbered = numbered[source.rows.start : source.rows.stop]
    if not numbered:
        raise DataError(f"--prompts {path}: holds no prompt", hint="One prompt a line.")
    if source.suffix not in (".jsonl", ".ndjson"):
        return [{"prompt": line} for _, line in numbered]
    return [_read_object(f"--prompts {path}, line {number}", line) for number, line in numbered]


def _read_object(where: str, line: str) -> dict[str, Any]:
    from petrun.data.chat.messages import EXTRA_CELLS, is_conversation

    shape = 'Example: {"prompt": "Hello", "delta": "a"}, or {"messages": [{"role": "user", "content": "Hello"}]}.'
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})", hint=shape) from error
    known = (*_PROMPTS, "delta", *EXTRA_CELLS)
    if not isinstance(item, dict):
        raise DataError(f"{where}: must be an object with prompt or messages, and perhaps delta", hint=shape)
    unknown = [name for name in item if name not in known]
    if unknown:
        raise DataError(f"{where}: unknown key '{unknown[0]}'", hint=did_you_mean(unknown[0], known))
    if sum(name in item for name in _PROMPTS) != 1:
        raise DataError(f"{where}: must have either prompt or messages", hint=shape)
    if not isinstance(item.get("prompt", ""), str) and not is_conversation(item["prompt"]):
        raise DataError(f"{where}: prompt must be a text, or messages", hint=shape)
    if any(name in item and not is_conversation(item[name]) for name in _PROMPTS[1:]) or not isinstance(
        item.get("delta", ""), str
    ):
        raise DataError(f"{where}: messages must be a list of messages, and delta a name", hint=shape)
    return item
