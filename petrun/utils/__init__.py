"""MindPet's import paths: the exceptions and constants that its delta, freeze and callback interfaces name. Nothing else lives here."""
