"""The import path of petrun.commands.export before petrun exported export_peft: the same module."""

import sys

from petrun.commands import export

sys.modules[__name__] = export
