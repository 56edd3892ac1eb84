"""Compile ranks of a cluster that is not there on a stub of CANN, and report what their graphs hold; nothing is computed."""
