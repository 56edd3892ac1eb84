"""Pipelines that make pictures: what their nets read of pictures and texts, drawing with several deltas, and what is written of it."""
