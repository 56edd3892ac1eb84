"""The processes of a job: ranks and hosts, how they are launched, watched and ended, rank tables, job scripts. Nothing inside the graph."""
