"""The import path of petrun.mindpet.graph.ckpt_util before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.graph import ckpt_util

sys.modules[__name__] = ckpt_util
