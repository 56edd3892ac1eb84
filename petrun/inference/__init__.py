"""A base and its deltas, put together, to scores and text. Nothing is trained here."""
