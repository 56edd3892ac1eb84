"""MindPet's constant of its delta cells."""

from petrun.delta.dense import DTYPES

VALID_TENSOR_DATATYPE = list(DTYPES)
"""The types that parameters may have and that a layer may compute in: float16, float32, bfloat16."""
