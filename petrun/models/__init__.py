"""Define model families, one file each and one table, and load a base from disk into a net. No method, no data."""
