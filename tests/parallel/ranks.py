"""One process of a job: run several command lines of petrun, one after the other, as the same rank of the same cluster.

    python -m tests.parallel.ranks FILE        a JSON list of command lines, each a list of arguments

Meeting the other ranks takes far longer than these runs; so they share it. Exits with the first code that is not 0. Each prints how many
rows of the base's evaluation it scored. After the last run every rank but the first fails, and each prints what it ends with.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from petrun.cluster.world import is_scheduler, join, serve
from petrun.errors import OutputError, PetrunError
from petrun.inference.evaluator import Evaluator
from tests.program import call


def main(file):
    if is_scheduler():
        serve()
        return 0
    Evaluator.forward = telling(Evaluator.forward)
    code = next((code for line in json.loads(Path(file).read_text()) if (code := call(line))), 0)
    world = join("cpu")
    return code or fail(world) or fail(replace(world, in_graph=True))


def telling(forward):
    """The pass of an evaluation, which also prints the rows that this rank scored."""

    def told(evaluator, label):
        outputs, counted = evaluator.scorer.outputs, []

        def counting(*arguments):
            found = outputs(*arguments)
            counted.append(len(found.rows))
            return found

        evaluator.scorer.outputs = counting
        try:
            return forward(evaluator, label)
        finally:
            del evaluator.scorer.outputs
            if label == "base":
                print(f"scored {counted} of {len(evaluator.examples)} rows of the base")

    return told


def fail(world):
    """0: every rank has ended the block with an error."""
    try:
        with world.fail_together():
            if not world.first:
                raise OutputError(f"the disk of rank {world.rank} is full\nand more")
    except PetrunError as error:
        print(f"ended with: {error.message} (in a graph: {world.in_graph})")
        return 0
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
