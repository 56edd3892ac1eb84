"""`petrun generate`."""

from __future__ import annotations

from petrun import console
from petrun.cli import signals
from petrun.cli.chat import Chat
from petrun.cli.command import Command
from petrun.config.commands.text import GenerateSettings


def generate(settings: GenerateSettings) -> None:
    """Write text, or draw pictures, with a base and any number of deltas, switched between in one compiled graph.

    Without --prompt and --prompts it reads lines: /use NAME, /off, /list, /help, /quit are commands, everything else is a prompt.

        petrun generate --delta runs/lora-1 --delta short=runs/ia3-1/ia3.ckpt
        petrun generate --delta runs/lora-1 --prompt "Extract the order. ..."
        petrun generate --task image --base ./sd --delta ink=runs/lora-1 --use ink:0.8 --prompt "a fox" --out pics
    """
    if settings.task == "image":
        from petrun.commands.draw import run

        run(settings)
        return
    # Before MindSpore is imported.
    with signals.distinguish_signals():
        from petrun.commands.generate import answers, open_session, read_rows, require_used
        from petrun.inference.generation.session import Decoding

        require_used(settings)
        rows = read_rows(settings.prompt, settings.prompts)
        decoding = Decoding(**settings.decoding())
        session = open_session(settings, next(iter(settings.use), None))
        if not rows:
            Chat(session, decoding, history=not settings.no_history, as_json=settings.as_json).run()
        for text in answers(session, rows, decoding, as_json=settings.as_json) if rows else ():
            console.write(text)


COMMAND = Command(
    name="generate",
    settings=GenerateSettings,
    run=generate,
    options=(
        *("task", "base", "deltas", "use", "model", "quant", "alpha", "template", "prompt", "prompts", "as_json"),
        *("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "seed", "no_history"),
        *("negative", "count", "steps", "guidance", "sampler", "size", "out"),
        *("batch_size", "device", "no_compile_cache", "settings"),
    ),
)
