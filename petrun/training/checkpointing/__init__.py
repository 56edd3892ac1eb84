"""Save training states during a run, and resume a run from them; their files are written and read in petrun.checkpoint."""
