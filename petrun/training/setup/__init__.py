"""A run up to its first step: layout, data, net with delta, optimizer, compiled step; nothing is written here."""
