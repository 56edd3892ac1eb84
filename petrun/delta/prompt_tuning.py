"""The import path of petrun.mindpet.delta.prompt_tuning before petrun.mindpet was there: the same module."""

import sys

from petrun.mindpet.delta import prompt_tuning

sys.modules[__name__] = prompt_tuning
