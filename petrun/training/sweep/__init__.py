"""Sweeps: many runs that differ in a few settings. Holds their plan, the graph that they share, and the table of what came out."""
