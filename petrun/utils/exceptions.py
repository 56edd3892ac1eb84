"""The import path of petrun.mindpet.utils.exceptions before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.utils import exceptions

sys.modules[__name__] = exceptions
