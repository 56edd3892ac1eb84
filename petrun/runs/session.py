"""The import path of petrun.inference.generation.session before petrun exported Session and Decoding: the same module."""

import sys

from petrun.inference.generation import session

sys.modules[__name__] = session
