"""`petrun serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from petrun.cli import options
from petrun.cli.options import Number, Text, Whole, option
from petrun.cli.signals import told_apart

SERVER = "Server"


def serve(
    base: options.Base = None,
    delta: options.NamedDeltas = None,
    model: options.Model = None,
    template: options.TemplateForAll = None,
    alpha: options.Alpha = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at.", rich_help_panel=SERVER, show_default=True)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port; 0 takes a free one.", rich_help_panel=SERVER, show_default=True)
    ] = 8000,
    key_env: Annotated[
        Text,
        option("--api-key-env", "Environment variable with the key that clients must send.", SERVER, metavar="NAME"),
    ] = None,
    key_file: Annotated[Text, option("--api-key-file", "File with that key.", SERVER, metavar="FILE")] = None,
    without_key: Annotated[
        bool, typer.Option("--without-api-key", help="Serve other machines without a key.", rich_help_panel=SERVER)
    ] = False,
    queue: Annotated[
        Whole, option("--queue", "Requests that may wait; more get status 429. Default 32.", SERVER)
    ] = None,
    batch_size: Annotated[
        Whole, option("--batch-size", "Requests that are computed together, each by its delta. Default 8.", SERVER)
    ] = None,
    max_tokens: Annotated[
        Whole, option("--max-tokens", "Most new tokens that a request may ask for. Default 1024.", SERVER)
    ] = None,
    grace: Annotated[
        Number, option("--grace", "Seconds that requests may still take after SIGTERM. Default 30.", SERVER)
    ] = None,
    device: options.Device = None,
    settings: options.Set = None,
) -> None:
    """Answer over HTTP in the format of OpenAI's chat completions; a model's name is that of its delta.

        petrun serve --base ./llama --delta orders=runs/lora-1 --delta runs/lora-2
        curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
          -d '{"model": "orders", "messages": [{"role": "user", "content": "Hello"}]}'
    """
    given = {"queue": queue, "batch_size": batch_size, "max_tokens": max_tokens, "grace_seconds": grace}
    with told_apart():
        from petrun.commands.serve import run
        from petrun.inference.generation.multi_delta import SessionSettings
        from petrun.serve.settings import ServerSettings

        server = ServerSettings(
            host=host,
            port=port,
            key_env=key_env,
            key_file=key_file,
            without_key=without_key,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        session = SessionSettings(
            base=base,
            deltas=delta or [],
            model=model,
            template=template,
            alpha=alpha,
            device=device,
            batch_size=server.batch_size,
            settings=settings or [],
        )
        run(session, server)
