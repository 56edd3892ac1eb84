"""Other tools' adapters, one sub-package a tool, reading and writing. petrun's own format is in petrun.checkpoint."""
