"""One process of a job: run several command lines of petrun, one after the other, as the same rank of the same cluster.

    python -m tests.parallel.ranks FILE        a JSON list of command lines, each a list of arguments

Meeting the other ranks takes far longer than these runs; so they share it. Exits with the first code that is not 0.
"""

import json
import sys
from pathlib import Path

from petrun.parallel.world import is_scheduler, serve

from ..runs.conftest import call


def main(file):
    if is_scheduler():
        serve()
        return 0
    return next((code for line in json.loads(Path(file).read_text()) if (code := call(line))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
