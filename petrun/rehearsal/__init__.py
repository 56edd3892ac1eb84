"""Ranks of a cluster that is not there: a stub of CANN, processes started on it, and what their graphs hold."""
