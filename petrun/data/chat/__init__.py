"""Render conversations to text and find the spans that are trained: messages, chat templates, turns, the end of a turn."""
