"""Bytes to rows with their line numbers: one file format a file, listed in table.py. The meaning of columns is in petrun/data/rows."""
