"""The processes of a job: ranks and hosts, how they are started, watched and ended, rank tables, job scripts. Nothing inside the graph."""
