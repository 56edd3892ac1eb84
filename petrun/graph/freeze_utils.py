"""The import path of petrun.mindpet.graph.freeze_utils before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.graph import freeze_utils

sys.modules[__name__] = freeze_utils
