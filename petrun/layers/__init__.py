"""Import paths of petrun.mindpet.layers before petrun.mindpet was there. Nothing is added here."""
