"""The learning receipt: what a run measures before its first step and after its last, and how it is printed; no step is taken here."""
