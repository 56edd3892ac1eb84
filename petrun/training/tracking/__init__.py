"""Send the records of a run's log to an experiment tracker, or to a function of a program; a failure of a tracker never ends a run."""
