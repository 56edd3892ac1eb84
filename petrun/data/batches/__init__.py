"""Turn tokenised rows into the arrays of a step: buckets of lengths, packing, the share of a rank, the pipeline."""
