"""Read the device of the kernels. petrun/parallel sets it."""

from __future__ import annotations

import mindspore as ms


def on_ascend() -> bool:
    """Return whether cells that are built now are for an Ascend card."""
    return bool(ms.get_context("device_target") == "Ascend")
