"""From a checkpoint in any form to full tensors that a job's strategy can shard. Writing the ranks' files is tensors/sharded's task."""
