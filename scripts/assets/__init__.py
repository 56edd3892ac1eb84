"""What scripts/make_assets.py builds the embedded base model and its task from: words, events, documents, orders."""
