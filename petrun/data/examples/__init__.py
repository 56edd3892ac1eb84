"""Tokenised examples: the set of all rows, its making from files, the cache on disk, and what the user is shown of it."""
