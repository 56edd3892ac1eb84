"""Change a net: find sites, swap cells, freeze parameters, add virtual tokens. No algorithm and no file is read here.

MindPet's freeze interface and callback are exported here as well; they come from petrun.mindpet when they are asked for.
"""

from typing import Any

__all__ = ["TrainableParamsCheckPoint", "freeze_delta", "freeze_from_config", "freeze_modules"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from petrun.mindpet import graph

        return getattr(graph, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
