"""Encode rows of every kind to token ids, labels and masks; one kind of encoding in each file."""
