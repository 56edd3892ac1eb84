"""Start, watch and end the processes of a job: ranks and hosts, rank tables, job scripts. Nothing here is inside the graph."""
