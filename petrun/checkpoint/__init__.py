"""Read and write petrun's own files: the delta file, its manifest, the training state, and a base with its deltas merged.

Holds no net and no other tool's format.
"""
