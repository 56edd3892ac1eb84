"""Ranks of a cluster that is not there, compiled on a stub of CANN, and the report of what their graphs hold; nothing is computed."""
