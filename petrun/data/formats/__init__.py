"""Read bytes as rows with their line numbers: one format in each file, listed in table.py. petrun/data/rows interprets the columns."""
