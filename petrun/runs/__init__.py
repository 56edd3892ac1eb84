"""Import paths that the documentation named before petrun exported these names itself. Nothing is added here."""
