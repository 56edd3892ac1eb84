"""Scores and text of a net that is there: metrics, generation, sampling, comparison of scores. No files of a run."""
