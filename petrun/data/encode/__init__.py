"""Rows of every kind to token ids, labels and the mask of what is scored; one kind of encoding a file."""
