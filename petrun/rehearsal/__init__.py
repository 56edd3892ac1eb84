"""Compile ranks of a cluster that is not there on a stub of CANN, report what their graphs hold, and compute them where asked to."""
