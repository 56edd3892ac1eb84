"""Checks before a run loads its base or takes its first step: hosts, ranks and their shared folder; not how ranks are started."""
