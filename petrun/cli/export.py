"""`petrun export`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.cli.delta import CONVERT_OPTIONS
from petrun.config.commands.delta import ConvertSettings


def export(settings: ConvertSettings) -> None:
    """Write a delta for another tool: peft, vLLM, llama.cpp and Ollama (GGUF), MindPet. What that tool refuses is refused here, by name.

    The same as `petrun delta convert`. For a model without an adapter, `petrun merge` writes a folder that transformers loads.

        petrun export runs/lora-1 --to peft --base ./llama --out adapter
        petrun export runs/lora-1 --to vllm --base ./llama --out orders
        petrun export runs/lora-1 --to gguf --base ./llama --out orders.gguf
    """
    from petrun.commands.delta.convert import run

    run(settings)


COMMAND = Command(name="export", settings=ConvertSettings, run=export, options=CONVERT_OPTIONS)
