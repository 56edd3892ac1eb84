"""Examine the machine for `petrun doctor`: software and what goes together, cards, disk, threads, ports. Nothing here imports MindSpore."""
