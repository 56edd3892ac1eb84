"""Read and write other tools' adapters, one sub-package for each tool. petrun's own format is in petrun.checkpoint."""
