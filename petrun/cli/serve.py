"""`petrun serve`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.cli.signals import distinguish_signals
from petrun.config.commands.text import ServeSettings


def serve(settings: ServeSettings) -> None:
    """Answer over HTTP in the format of OpenAI's chat completions; a model has the name of its delta.

        petrun serve --base ./llama --delta orders=runs/lora-1 --delta runs/lora-2
        curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
          -d '{"model": "orders", "messages": [{"role": "user", "content": "Hello"}]}'
    """
    with distinguish_signals():
        from petrun.commands.serve import run

        run(settings)


COMMAND = Command(
    name="serve",
    settings=ServeSettings,
    run=serve,
    options=(
        *("base", "deltas", "model", "quant", "template", "alpha"),
        *(
            "host",
            "port",
            "key_env",
            "key_file",
            "without_key",
            "queue",
            "batch_size",
            "context",
            "max_tokens",
            "grace_seconds",
        ),
        *("device", "no_compile_cache", "settings"),
    ),
)
