"""The import path of petrun.mindpet.utils.version_control before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.utils import version_control

sys.modules[__name__] = version_control
