"""The import path of petrun.mindpet.delta.prefix_layer before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.delta import prefix_layer

sys.modules[__name__] = prefix_layer
