"""The files of a job's ranks and the one checkpoint that they are shards of: strategies, layouts, reading, writing."""
