"""The import path of petrun.mindpet.layers.activation before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.layers import activation

sys.modules[__name__] = activation
