"""petrun: parameter-efficient fine-tuning on MindSpore from the command line.

For programs it exports `Session` and `Decoding` (text from a base and several deltas) and `export_peft` (a delta as an adapter folder
that peft loads). They are imported when they are first used: `import petrun` imports neither MindSpore nor any other package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petrun.commands.export import run as export_peft
    from petrun.inference.generation.session import Decoding, Session

__version__ = "0.1.0"

__all__ = ["Decoding", "Session", "__version__", "export_peft"]


def __getattr__(name: str) -> object:
    """Import a public name at its first use."""
    if name in ("Decoding", "Session"):
        from petrun.inference.generation import session

        return getattr(session, name)
    if name == "export_peft":
        from petrun.commands.export import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
