"""Inside the training step: loss, optimizer, the compiled step, the loop. It knows no files, metrics or algorithms."""
