"""Generates text with a base and several deltas: loads them into one net, holds sessions, and answers prompts of files and of HTTP."""
