"""Parallelism inside the graph of a job on several cards: the layout, its checks, plans of cells, stages, shards, sums. Starts no
process.
"""
