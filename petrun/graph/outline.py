"""Mark nets without values, to compile and to measure a model whose weights are not here."""

from __future__ import annotations

from petrun.typing import Cell, Parameter


def mark_outline(net: Cell) -> None:
    """Mark all parameters of a net as having no values."""
    for parameter in net.get_parameters():
        parameter.is_outline = True


def is_outline(parameter: Parameter) -> bool:
    """Return whether a parameter has no values, so that nothing may be computed from it."""
    return getattr(parameter, "is_outline", False)
