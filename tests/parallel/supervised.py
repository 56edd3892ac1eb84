"""`python -m tests.parallel.supervised JOB.json`: petrun.parallel.launch with plain Python programs for ranks and scheduler."""

import json
import sys
from pathlib import Path

from petrun.parallel.cluster import make_cluster
from petrun.parallel.launch import Job, Voice, launch


def main():
    asked = json.loads(Path(sys.argv[1]).read_text())
    program = (sys.executable, "-S", "-E")
    job = Job(
        command=(*program, asked["rank"]),
        scheduler=(*program, asked["scheduler"]),
        cluster=make_cluster(asked.get("cards", 3), None, None, None, asked.get("port")),
        logs=Path(asked["logs"]),
        max_restarts=asked.get("restarts", 0),
        grace_seconds=asked.get("grace", 20.0),
    )
    sys.exit(
        launch(job, Voice(lambda line: print(line, flush=True), lambda line: print(line, file=sys.stderr, flush=True)))
    )


if __name__ == "__main__":
    main()
