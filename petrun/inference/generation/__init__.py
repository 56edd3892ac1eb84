"""Text from a base and several deltas: loading them into one net, sessions, prompts of a file, and the engine of the HTTP server."""
