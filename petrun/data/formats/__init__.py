"""One file format a file: bytes to rows, with the place of every row. No meaning is attached to a column here."""
