"""The learning receipt: what a run measures before its first step and after its last, and how that is told; no step is taken here."""
