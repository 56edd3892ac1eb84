"""Device of the kernels. It is read, never set: petrun/parallel owns the context."""

from __future__ import annotations

import mindspore as ms


def on_ascend() -> bool:
    return bool(ms.get_context("device_target") == "Ascend")
