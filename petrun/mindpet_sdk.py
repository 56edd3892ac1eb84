"""The import path of petrun.mindpet.mindpet_sdk before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet import mindpet_sdk

sys.modules[__name__] = mindpet_sdk
