"""`petrun train`, all of it, as one rank of a job whose operators are split, on the Ascend front end with imagined kernels and groups.

    python -m tests.parallel.one_train OPTIONS...        what follows `petrun train`

MindSpore must find a CANN, or a stub of one, and MS_SIMULATION_LEVEL=1. Sums over imagined ranks are nothing, so what ranks agree on
is what this one says, nobody differs, and nobody looks for what another has written. Gradients are not finite and losses 0, so that
every step is left out with --on-nan skip.
"""

import sys

import petrun.commands.train
from petrun.cli.app import main
from petrun.cluster.world import World

if __name__ == "__main__":
    World.any_rank = World.of_first_rank = lambda self, flag: flag
    petrun.commands.train.require_consistent_ranks = lambda resolved, loaded, world, trainable: None
    petrun.commands.train.require_shared = lambda out, world: None
    sys.argv = ["petrun", "train", *sys.argv[1:]]
    main()
