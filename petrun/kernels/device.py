"""Device of the kernels. It is read, never set: petrun/parallel owns the context."""

from __future__ import annotations

import mindspore as ms


def on_ascend() -> bool:
    """True where cells that are built now are for an Ascend card."""
    return bool(ms.get_context("device_target") == "Ascend")
