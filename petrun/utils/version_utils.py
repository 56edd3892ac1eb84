"""The import path of petrun.mindpet.utils.version_utils before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.utils import version_utils

sys.modules[__name__] = version_utils
