"""Import paths of petrun.mindpet.log before petrun.mindpet was there. Nothing is added here."""
