"""Read a checkpoint in any form as full tensors that a job's strategy can shard. petrun.tensors.sharded writes the ranks' files."""
