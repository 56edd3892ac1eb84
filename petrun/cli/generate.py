"""`petrun generate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from petrun.cli import options, signals
from petrun.cli.chat import Chat
from petrun.cli.options import MODEL, RUN, Flag, Number, Text, Texts, Whole, option

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
    # Before MindSpore is imported.
    with signals.told_apart():
        from petrun.commands.generate import answers, open_session, read_rows
        from petrun.inference.generation.multi_delta import SessionSettings
        from petrun.inference.generation.session import Decoding

        rows = read_rows(prompt or [], prompts)
        decoding = Decoding(
            max_new_tokens=128 if max_new_tokens is None else max_new_tokens,
            temperature=temperature or 0.0,
            top_k=top_k or 0,
            top_p=1.0 if top_p is None else top_p,
            repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
            stop=tuple(stop or ()),
            seed=seed or 0,
        )
        session = open_session(
            SessionSettings(
                base=base,
                deltas=delta or [],
                model=model,
                template=template,
                alpha=alpha,
                device=device,
                batch_size=8 if batch_size is None else batch_size,
                settings=settings or [],
            ),
            use,
        )
        if not rows:
            Chat(session, decoding, history=not no_history, as_json=as_json).run()
        for text in answers(session, rows, decoding, as_json=as_json) if rows else ():
            typer.echo(text, nl=False)
            sys.stdout.flush()
