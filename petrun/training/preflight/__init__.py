"""Check hosts, ranks and their shared folder before a run loads its base or takes its first step; ranks are started in cluster."""
