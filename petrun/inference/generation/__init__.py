"""Generate text with a base and several deltas: load them into one net, hold sessions, and answer prompts of files and of HTTP."""
