"""petrun: parameter-efficient fine-tuning on MindSpore, from the command line and from programs.

    import petrun

    run = petrun.train(algo="lora", rank=8, base="./llama", data="train.jsonl", eval_data="dev.jsonl")
    print(run.delta, run.after, run.losses[-1])
    print(petrun.load("./llama", run.delta).generate("Extract the order. ...").text)
    print(petrun.evaluate("./llama", run.delta, data="dev.jsonl").deltas)

`train`, `evaluate` and `load` call what the commands of the same names call, and raise petrun.errors.PetrunError. For programs there are
also `Session` and `Decoding` (text from a base and several deltas), `read_run` (what a run folder holds) and `export_peft` (a delta as an
adapter folder that peft loads). All are imported when they are first used: `import petrun` imports neither MindSpore nor any other package.
"""

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petrun.api.evaluation import evaluate
    from petrun.api.session import load
    from petrun.api.training import train
    from petrun.commands.export import run as export_peft
    from petrun.errors import PetrunError
    from petrun.inference.generation.session import Decoding, Session
    from petrun.training.run_record import RunRecord, read_run

__version__ = "0.1.0"

__all__ = [
    "Decoding",
    "PetrunError",
    "RunRecord",
    "Session",
    "__version__",
    "evaluate",
    "export_peft",
    "load",
    "read_run",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use."""
    if name in ("Decoding", "Session"):
        from petrun.inference.generation import session

        return getattr(session, name)
    if name in ("RunRecord", "read_run"):
        from petrun.training import run_record

        return getattr(run_record, name)
    if name == "export_peft":
        from petrun.commands.export import run

        return run
    if name == "PetrunError":
        from petrun.errors import PetrunError

        return PetrunError
    if name == "load":
        from petrun.api.session import load

        return load
    if name in _CALLED:
        # Importing the package binds it to this name, and makes it callable.
        import petrun.evaluate
        import petrun.train  # noqa: F401

        return sys.modules[f"{__name__}.{name}"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _train() -> Any:
    from petrun.api.training import train

    return train


def _evaluate() -> Any:
    from petrun.api.evaluation import evaluate

    return evaluate


_CALLED = {"train": _train, "evaluate": _evaluate}
"""Names that are a package of petrun and a function of it for programs: the package is called as the function."""


class _CallablePackage(types.ModuleType):
    """A package of petrun that is called as the function of its name."""

    def __call__(self, *arguments: Any, **keywords: Any) -> object:
        return _CALLED[self.__name__.rpartition(".")[2]]()(*arguments, **keywords)

    @property
    def __signature__(self) -> object:
        """What `help` and an editor show for the call."""
        import inspect

        return inspect.signature(_CALLED[self.__name__.rpartition(".")[2]]())


class _Package(types.ModuleType):
    """petrun itself: a package that is bound to it under the name of a function becomes callable."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _CALLED and isinstance(value, types.ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
