"""The import path of petrun.mindpet.delta.delta_constants before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.delta import delta_constants

sys.modules[__name__] = delta_constants
