"""Compute with deltas as numbers: sums, low-rank products, TIES and DARE, comparison, extraction. No net, no files of other tools."""
