"""The import path of petrun.inference.session before petrun exported Session and Decoding: the same module."""

import sys

from petrun.inference import session

sys.modules[__name__] = session
