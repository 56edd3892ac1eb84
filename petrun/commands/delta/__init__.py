"""The `petrun delta` commands: deltas as files, without a model."""
