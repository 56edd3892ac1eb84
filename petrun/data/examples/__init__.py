"""Make tokenised examples: build the set of all rows from files, cache it on disk, and show it to the user."""
