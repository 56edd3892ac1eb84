"""Prompt and chat templates: built-in ones, files, those of a tokenizer; rendered with jinja2 in a sandbox."""
