"""Import paths of petrun.mindpet.utils before petrun.mindpet was there. Nothing is added here."""
