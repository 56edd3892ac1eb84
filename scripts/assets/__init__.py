"""The sources of the embedded base model and its task, for scripts/make_assets.py: words, events, documents, orders."""
