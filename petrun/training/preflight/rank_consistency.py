"""Require that the ranks of a job start with the same settings, rows, base and first values.

A rank that differs would train without an error.
"""

from __future__ import annotations

import hashlib
import json

from petrun.cluster.world import World
from petrun.errors import SetupError
from petrun.training.checkpointing.fingerprint import VERSIONS, fingerprint_of
from petrun.training.setup.training_setup import TrainingSetup

_FIRST_VALUES = "the first values of what trains"


def require_consistent_ranks(setup: TrainingSetup, world: World) -> None:
    """Raise SetupError on every rank where one differs from the first; that rank names in what. Every rank must call it."""
    if world.size == 1:
        return
    fingerprint = fingerprint_of(setup)
    values = {key: json.dumps(value, sort_keys=True) for key, value in fingerprint.items() if key != VERSIONS}
    differing = world.differing({**values, _FIRST_VALUES: _digest_of_first_values(setup)})
    with world.fail_together():
        if differing:
            raise SetupError(
                f"differs from rank 0 in {', '.join(differing)}",
                hint="Every host needs the same files and flags; a factory of your own must make the same net in every process.",
            )


def _digest_of_first_values(setup: TrainingSetup) -> str:
    digest = hashlib.sha256()
    for parameter in setup.trainable.parameters:
        digest.update(parameter.name.encode())
        digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()
