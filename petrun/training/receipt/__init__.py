"""Measure a run before its first step and after its last, and write the learning receipt; no step is taken here."""
