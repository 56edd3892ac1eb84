"""Score a loaded net and generate text with it: metrics, generation, sampling, comparison of scores. Reads no files of a run."""
