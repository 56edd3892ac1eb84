"""Nets without values: what is compiled and counted of a model whose weights are not here."""

from __future__ import annotations

from petrun.typing import Cell, Parameter


def mark_outline(net: Cell) -> None:
    """Say of all parameters of a net that they have no values."""
    for parameter in net.get_parameters():
        parameter.is_outline = True


def is_outline(parameter: Parameter) -> bool:
    """Whether nothing may be computed of this parameter's values, as there are none."""
    return getattr(parameter, "is_outline", False)
