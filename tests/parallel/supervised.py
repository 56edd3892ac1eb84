"""`python -m tests.parallel.supervised JOB.json`: petrun.cluster.launch with plain Python programs for ranks and scheduler."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from petrun.cluster.launch import Job, JobOutput, launch
from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.processes import supervise
from petrun.cluster.ranks import make_cluster
from petrun.errors import SetupError


def main():
    asked = json.loads(Path(sys.argv[1]).read_text())
    program = (sys.executable, "-S", "-E")
    host_rank, hosts = asked.get("host_rank"), None
    address = None if host_rank is None else "127.0.0.1"
    cluster = make_cluster(asked.get("cards", 3), asked.get("hosts"), host_rank, address, asked.get("port"))

    def say(line):
        print(line, file=sys.stderr, flush=True)

    if host_rank is not None:
        hosts = Hosts(cluster, max_restarts=asked.get("restarts", 0), show=say, environment=os.environ)
    job = Job(
        command=(*program, asked["rank"]),
        scheduler=(*program, asked["scheduler"]),
        cluster=cluster,
        logs=Path(asked["logs"]),
        max_restarts=asked.get("restarts", 0),
        grace_seconds=asked.get("grace", 20.0),
        hosts=hosts,
    )
    supervise._UNLOAD_SECONDS = asked.get("unload", supervise._UNLOAD_SECONDS)
    try:
        with hosts or nullcontext():
            sys.exit(launch(job, JobOutput(out=lambda line: print(line, flush=True), err=say)))
    except SetupError as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
