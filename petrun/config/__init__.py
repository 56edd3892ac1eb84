"""What a run may be told: every setting with its type, default and meaning, and how settings are read. Nothing is built here."""
