"""Merges deltas into their base and takes them out again, proves that both models agree, and writes a delta's prompts into the folder."""
