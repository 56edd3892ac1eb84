"""Find and render prompt and chat templates: built-in ones, files, those of a tokenizer; with jinja2 in a sandbox."""
