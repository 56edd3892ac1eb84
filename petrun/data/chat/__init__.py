"""Conversations to text and to the spans that are trained: messages, chat templates, turns, the end of a turn."""
