"""The `petrun data` commands: files of rows in, files of rows out."""
