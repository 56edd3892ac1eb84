"""The import path of petrun.tensors.sharded.strategy in earlier documentation: the same module."""

import sys

from petrun.tensors.sharded import strategy

sys.modules[__name__] = strategy
