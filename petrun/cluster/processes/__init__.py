"""Start, tag, watch and end the processes of this host, and read their logs. petrun.cluster decides which ranks there are."""
