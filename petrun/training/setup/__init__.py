"""A run up to its first step: settings are resolved, then net with delta, optimizer and step are built; nothing is written here."""
