"""Checkpoints of MindPet: what their names and shapes say, and deltas written as such."""
