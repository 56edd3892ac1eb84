"""The life of a run: set-up, plan, recorder, checkpoints, resume, verification, receipt, the run folder."""
