"""Compute with deltas as numbers: sums, low-rank products, TIES and DARE, comparison, extraction, and the manifest of the result.

Holds no net and no files of other tools.
"""
