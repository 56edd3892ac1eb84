"""Training states over the life of a run: when one is saved, what it holds, how a run resumes from it; their files are in checkpoint."""
