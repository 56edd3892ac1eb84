"""The import path of petrun.mindpet.log.log before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.log import log

sys.modules[__name__] = log
