"""The life of a run, from its settings to its receipt: set-up, preflight, recorder, checkpoints, resume, receipt, run folder.

The step itself is in train; scoring and generation with a base and deltas are in inference.
"""
