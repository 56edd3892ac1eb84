"""The import path of petrun.mindpet.utils.constants before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.utils import constants

sys.modules[__name__] = constants
