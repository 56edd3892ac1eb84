"""Deltas and adapters of a small net, as tests/checkpoint has them."""

from tests.checkpoint.conftest import base_arrays, base_folder, make_delta, names, write, write_adapter  # noqa: F401
