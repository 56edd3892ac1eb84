"""Show runs from their folders alone: an HTML page with curves, and a view of a run at work for the terminal. Needs no MindSpore."""
