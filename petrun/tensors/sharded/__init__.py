"""Read and write the files of a job's ranks, which hold the shards of one checkpoint, with their strategies and layouts."""
