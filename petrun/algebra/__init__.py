"""Deltas as numbers: weighted sums, low-rank products, TIES and DARE, comparison, extraction. No net, no other tool's files."""
