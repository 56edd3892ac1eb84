"""Rows of data files before training: read as a stream, convert, mix, split, filter, score and select them.

Each result is a plain file, beside it the rows that were dropped with their reasons. What a row means is told by petrun/data.
"""
