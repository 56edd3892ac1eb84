"""What `petrun plan` says of a run before anything heavy is loaded: targets, batches, memory, layout, files, and settings that fit."""
