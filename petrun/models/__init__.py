"""Model families, one file each and one table, and the way from a base on disk to a net with its weights. No method, no data."""
