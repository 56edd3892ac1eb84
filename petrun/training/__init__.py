"""The life of a run, from its settings to its receipt: set-up, preflight, recorder, checkpoints, resume, receipt, run folder.

The step itself is in train; what scores and generates from a base and deltas is in inference.
"""
