"""The operators that a compiled step may hold, in numpy: one literal table, a file for each topic."""

from petrun.rehearsal.operators.attention import ATTENTION
from petrun.rehearsal.operators.control import CONTROL
from petrun.rehearsal.operators.elementwise import ELEMENTWISE
from petrun.rehearsal.operators.norms import NORMS
from petrun.rehearsal.operators.optimizers import OPTIMIZERS
from petrun.rehearsal.operators.products import PRODUCTS
from petrun.rehearsal.operators.shapes import SHAPES
from petrun.rehearsal.operators.types import Compute

IN_PLACE: dict[str, Compute] = {**CONTROL, **OPTIMIZERS}
"""Operators that take variables as they are."""
PURE: dict[str, Compute] = {**ATTENTION, **ELEMENTWISE, **NORMS, **PRODUCTS, **SHAPES}
"""Operators of values alone."""
