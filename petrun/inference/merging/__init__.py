"""Merge deltas into their base and take them out again, prove that both models agree, and write a delta's prompts into the folder."""
